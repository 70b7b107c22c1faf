"""No tracked file names a package index or a folder of somebody's machine: both are the reader's own."""

import re
import subprocess
from pathlib import Path

import pytest

INDEX = re.compile(
    r"https?://[^\s\"'<>]*/simple\b"
    r"|\b(?:pypi\.org|pythonhosted\.org|(?:registry\.)?npmjs\.(?:org|com)|(?:deb|security)\.debian\.org)\b"
)
MACHINE = re.compile(r"(?<![\w.$~}-])/(?:work|farm|root|home|Users|tmp)/\w")


@pytest.fixture(scope="module")
def tracked(root: Path) -> list[Path]:
    """The files that git tracks."""
    run = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in run.stdout.split("\0") if name and (root / name).is_file()]


@pytest.mark.parametrize("pattern", [INDEX, MACHINE], ids=["package index", "machine path"])
def test_no_address(tracked: list[Path], pattern: re.Pattern[str]):
    hits = [
        f"{path}:{number}: {found[0]}"
        for path in tracked
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if (found := pattern.search(line))
    ]
    assert not hits, "\n".join(hits)


def test_generated_lock_stays_out(tracked: list[Path]):
    assert "uv.lock" not in {path.name for path in tracked}, "uv.lock names package indexes: ignore it"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (INDEX, "https://mirror.example/sim" + "ple"),
        (INDEX, "pypi" + ".org"),
        (MACHINE, "open('/wo" + "rk/a')"),
    ],
)
def test_the_patterns_find_what_they_look_for(pattern: re.Pattern[str], text: str):
    assert pattern.search(text)
