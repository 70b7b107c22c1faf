"""Demo data of a domain, collected from packages by name, with licences and checksums.

A domain declares its packages as records (:class:`Source`) and gives one function, that turns what was unpacked
into files of its own format. :func:`build` does the rest, and :func:`files` lists what was built.
"""

from diffkit.core.collect.clients import Client, PackageError
from diffkit.core.collect.collection import MANIFEST, Convert, Report, Source, build, files, tell

__all__ = ["MANIFEST", "Client", "Convert", "PackageError", "Report", "Source", "build", "files", "tell"]
