"""What ISMRMRD's XML header says of a scan, in MRD files and in those of fastMRI."""

from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree


class Space(NamedTuple):
    """Voxels and mm along the readout, the phases, and the second phases (or through the slice)."""

    matrix: tuple[int, ...]
    field: tuple[float, ...]


@dataclass(frozen=True)
class Header:
    """Of the first encoding: the spaces that were ``encoded``, and that are to be reconstructed, ``recon``.

    ``centres`` are the steps of both phases at the centre of k-space, None where the header does not say;
    ``trajectory``, and how lines of ``calibration`` go with the others, are in ISMRMRD's words.
    """

    encoded: Space
    recon: Space
    centres: tuple[int | None, int | None]
    trajectory: str
    calibration: str

    @classmethod
    def of(cls, xml: bytes) -> "Header":
        """ValueError for what is no such header."""
        try:
            encoding = ElementTree.fromstring(xml).find(".//{*}encoding")
            if encoding is None:
                raise ValueError("without encoding")
            encoded, recon = (_space(encoding, name) for name in ("encodedSpace", "reconSpace"))
        except (ElementTree.ParseError, ValueError) as error:
            raise ValueError("its header of ISMRMRD does not say matrix and field of view.") from error
        first, second = (
            encoding.findtext(f"{{*}}encodingLimits/{{*}}kspace_encoding_step_{step}/{{*}}center")
            for step in (1, 2)
        )
        return cls(
            encoded,
            recon,
            (int(first) if first else None, int(second) if second else None),
            encoding.findtext("{*}trajectory") or "cartesian",
            encoding.findtext("{*}parallelImaging/{*}calibrationMode") or "embedded",
        )


def _space(encoding: ElementTree.Element, name: str) -> Space:
    matrix, field = (
        [float(encoding.findtext(f"{{*}}{name}/{{*}}{what}/{{*}}{axis}") or "") for axis in "xyz"]
        for what in ("matrixSize", "fieldOfView_mm")
    )
    if min(matrix) < 1 or not min(field) > 0:
        raise ValueError("without extent")
    return Space(tuple(map(int, matrix)), tuple(field))
