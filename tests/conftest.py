"""What the tests of the whole house share: where it stands, and its package manager."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that runs these tests (it names itself in `UV`), else the one on PATH."""
    path = os.environ.get("UV") or shutil.which("uv")
    if path is None:
        pytest.skip("needs uv")
    return path
