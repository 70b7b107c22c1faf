"""The command `diffkit-medical`: parse, call, print."""

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from diffkit.core.cli import run


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffkit-medical` and return its exit status."""
    return run(
        {"data": data},
        prog="diffkit-medical",
        version=metadata.version("diffkit-medical"),
        about="Reconstruct, segment and follow medical images with diffusion.",
        argv=argv,
    )


def data(directory: Path, sources: list[str] | None = None, reserved: bool = False) -> int:
    """Build the demo data, MRI and CT with labels, from public packages.

    A build that was interrupted goes on; manifest.json says where each file came from and its licence.

    Args:
        directory: Where the data are, or are to be.
        sources: Names of sources, such as [colin27]; by default all that are not reserved.
        reserved: Also the sources that are kept for a last judgement and never trained on.
    """
    from diffkit.core.collect import tell
    from diffkit.medical.data import build

    return tell(build(directory, sources, reserved=reserved), directory, "diffkit-medical")


if __name__ == "__main__":
    sys.exit(main())
