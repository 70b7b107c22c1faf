"""The examples of the documentation run as they stand."""

import doctest
import warnings
from pathlib import Path


def test_core_page() -> None:
    page = Path(__file__).parents[1] / "docs" / "core.md"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OUVE's prior is shown not to match
        failed, tried = doctest.testfile(
            str(page), module_relative=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        )
    assert tried > 50
    assert failed == 0
