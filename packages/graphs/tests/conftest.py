"""What the tests of the graph package share."""

from pathlib import Path

import pytest


@pytest.fixture
def benchmark() -> Path:
    """The folder with the benchmark graphs of the GDSS paper, which stand beside the repository where they are."""
    folder = Path(__file__).resolve().parents[4] / "shared/data/graphs"
    if not folder.is_dir():
        pytest.skip("the benchmark's own graphs are not here")
    return folder
