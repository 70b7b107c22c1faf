"""Files and folders that appear whole or not at all: written beside their place, and renamed."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def vacant(*paths: Path, overwrite: bool) -> None:
    """ValueError, before any work is done for them, for the first of ``paths`` that may or can not be replaced."""
    if not overwrite and (there := next((path for path in paths if path.exists()), None)):
        raise ValueError(f"{there} exists already; give another name, or --overwrite.")
    if folder := next((path for path in paths if path.suffix and path.is_dir()), None):
        raise ValueError(f"{folder} is a folder, which no file replaces; give another name.")


@contextmanager
def whole(path: str | Path) -> Generator[Path]:
    """A hidden file beside ``path``, of its suffix, that takes its place when all went well, and is removed if not.

    Folders on the way to it are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Generator[Path]:
    """A hidden folder beside ``path`` that takes its place, and that of what stands there, as :func:`whole` does."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield beside
        beside.chmod(0o755)  # mkdtemp makes folders that nobody else can read
        if path.exists():
            shutil.rmtree(path)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
