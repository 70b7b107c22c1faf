"""`requirements.lock` pins every package by hash, and pins what the manifests ask for today."""

import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.markers import Marker

LOCK = "requirements.lock"
EXPORT = (
    "export --format requirements-txt --all-packages --all-extras --all-groups --no-emit-workspace"
    f" --output-file {LOCK}"
).split()
ENVIRONMENTS = [
    {"sys_platform": system, "platform_machine": machine, "python_full_version": version}
    for system in ("linux", "darwin", "win32", "emscripten", "android", "cygwin")
    for machine in ("x86_64", "aarch64", "arm64", "ARM64", "AMD64", "amd64")
    for version in ("3.11.4", "3.11.5", "3.12.0", "3.13.0", "3.14.0", "3.15.0")
]


def lines(lock: Path) -> list[str]:
    """The lines that pip reads."""
    return [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]


def meaning(lock: Path) -> list[tuple[str, list[bool]]]:
    """These, with where each holds in place of its condition, which every version of uv spells in its own way."""
    pins = (line.removesuffix(" \\").partition(" ; ") for line in lines(lock))
    return [
        (pin, [Marker(condition).evaluate(where) for where in ENVIRONMENTS if condition])
        for pin, _, condition in pins
    ]


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
    assert meaning(tmp_path / LOCK) == meaning(root / LOCK), stale
