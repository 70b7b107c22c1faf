"""`requirements.lock` pins every package by hash, and pins what the manifests ask for today."""

import shutil
import subprocess
from pathlib import Path

import pytest

LOCK = "requirements.lock"
EXPORT = (
    "export --format requirements-txt --all-packages --all-extras --all-groups --no-emit-workspace"
    f" --output-file {LOCK}"
).split()


def lines(lock: Path) -> list[str]:
    """The lines that pip reads."""
    return [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]


def unmarked(lock: Path) -> list[str]:
    """These without the conditions on platforms, which every version of uv spells in its own way."""
    return [line.split(" ;")[0].removesuffix(" \\") for line in lines(lock)]


def test_every_pin_has_its_hash_and_no_address(root: Path):
    text = "\n".join(lines(root / LOCK))
    pins = text.replace("\\\n", " ").splitlines()
    assert len(pins) > 50
    for pin in pins:
        assert "==" in pin, pin
        assert "--hash=sha256:" in pin, pin
    assert "://" not in text


@pytest.mark.network
def test_the_lock_is_fresh(root: Path, uv: str, tmp_path: Path):
    for manifest in [
        root / "pyproject.toml",
        *root.glob("shared/*/pyproject.toml"),
        *root.glob("packages/*/pyproject.toml"),
    ]:
        copy = tmp_path / manifest.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(manifest, copy)
    run = subprocess.run([uv, *EXPORT], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    stale = f"{LOCK} is stale: remove uv.lock, and run `uv {' '.join(EXPORT)}`"
    assert unmarked(tmp_path / LOCK) == unmarked(root / LOCK), stale
