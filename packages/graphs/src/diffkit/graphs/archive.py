"""The lists of packages that apt has, and the heterogeneous graph of a Debian archive in them.

Kinds are packages, with their `section`, and maintainers; relations `depends`, `recommends`, `suggests` and
`maintains`. Of alternatives the first counts, and packages that are not in the lists, virtual ones, do not. Lists have
no times: changelogs, which do, come with each package alone. Another release of the distribution is another graph.
"""

import subprocess
from collections.abc import Iterator, Mapping

from diffkit.graphs.hetero import MISSING, Hetero, typed

RELATIONS = ("Depends", "Recommends", "Suggests")


def listed() -> str:
    """What ``apt-cache dumpavail`` says. ValueError where there is no apt."""
    try:
        done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            "the set needs apt-cache, of a Debian or its like, after `apt-get update`."
        ) from error
    return done.stdout


def packages(text: str) -> Iterator[Mapping[str, str]]:
    """The fields of each package in the format of ``apt-cache dumpavail``, without continued lines."""
    for record in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in record.split("\n") if ": " in line and line[0] != " ")
        if "Package" in fields:
            yield fields


def wishes(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """``(field, package)`` of what a package depends on, recommends and suggests; not of itself."""
    for kind in RELATIONS:
        for wish in fields.get(kind, "").split(","):
            words = wish.split("|")[0].split()
            target = words[0].split(":")[0] if words else ""
            if target and target != fields["Package"]:
                yield kind, target


def graph(text: str) -> Hetero:
    """The heterogeneous graph of packages in that format; see the module."""
    known = {fields["Package"]: fields for fields in packages(text)}
    maintainers = dict.fromkeys(fields["Maintainer"] for fields in known.values() if "Maintainer" in fields)
    nodes = [("package", name, {"section": f.get("Section", MISSING)}) for name, f in known.items()]
    edges = [
        (("package", name), kind.lower(), ("package", target))
        for name, fields in known.items()
        for kind, target in wishes(fields)
        if target in known
    ]
    edges += [
        (("maintainer", fields["Maintainer"]), "maintains", ("package", name))
        for name, fields in known.items()
        if "Maintainer" in fields
    ]
    return typed([*nodes, *(("maintainer", name, {}) for name in maintainers)], edges)
