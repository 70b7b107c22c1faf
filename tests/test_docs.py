"""The examples of the documentation run as they stand."""

import doctest
import warnings
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("core.md", 50),
        ("solvers.md", 5),
        ("control.md", 35),
        ("inverse.md", 10),
        ("medical.md", 5),
        ("graphs.md", 20),
    ],
)
def test_pages(name: str, examples: int) -> None:
    page = Path(__file__).parents[1] / "docs" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OUVE's prior is shown not to match
        failed, tried = doctest.testfile(
            str(page), module_relative=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
    assert tried > examples
    assert failed == 0
