"""What is written appears whole or not at all."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from diffkit.core.files import vacant, whole, whole_folder


def test_a_file_takes_the_place_of_another_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_text("old")
    with whole(path) as beside:
        assert beside.suffix == ".gz"
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_another_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a"
    for text in ("old", "new"):
        with whole_folder(path) as beside:
            (beside / text).write_text(text)
    assert [item.name for item in path.iterdir()] == ["new"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("writer", [whole, whole_folder])
def test_an_error_leaves_what_was_there(
    writer: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    path = tmp_path / "a.json"

    def interrupted() -> None:
        with writer(path) as beside:
            (beside if writer is whole else beside / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_what_exists_is_named_before_any_work(tmp_path: Path) -> None:
    new, taken, folder = (tmp_path / name for name in ("new.json", "taken.json", "folder.json"))
    taken.write_text("precious")
    folder.mkdir()
    vacant(new, overwrite=False)
    vacant(new, taken, overwrite=True)
    with pytest.raises(ValueError, match=r"taken.json exists already.*--overwrite"):
        vacant(new, taken, overwrite=False)
    with pytest.raises(ValueError, match=r"folder.json is a folder"):
        vacant(folder, overwrite=True)
    vacant(tmp_path, overwrite=True)  # such as a DICOM series, which has no suffix


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    with whole(tmp_path / "a/b/new.txt") as beside:
        beside.write_text("here")
    assert (tmp_path / "a/b/new.txt").read_text() == "here"
