"""WordNet as a heterogeneous graph: one kind of nodes, synsets, and 26 relations.

Read from the files `data.noun`, `data.verb`, `data.adj` and `data.adv` that Princeton's WordNet 3 consists of (their
format is the manual page wndb(5)). A pointer between two words of synsets counts as one between the synsets. An id is
the first word, the part of speech and the offset in its file; attributes are `pos` and `lexname`, the lexicographer's
file.
"""

from collections.abc import Iterator
from pathlib import Path

from diffkit.graphs.hetero import Hetero, typed

POINTERS = {
    "!": "antonym",
    "@": "hypernym",
    "@i": "instance_hypernym",
    "~": "hyponym",
    "~i": "instance_hyponym",
    "#m": "member_holonym",
    "#s": "substance_holonym",
    "#p": "part_holonym",
    "%m": "member_meronym",
    "%s": "substance_meronym",
    "%p": "part_meronym",
    "=": "attribute",
    "+": "derivation",
    ";c": "topic",
    "-c": "topic_member",
    ";r": "region",
    "-r": "region_member",
    ";u": "usage",
    "-u": "usage_member",
    "*": "entailment",
    ">": "cause",
    "^": "also",
    "$": "verb_group",
    "&": "similar",
    "<": "participle",
    "\\": "pertainym",
}
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_TOPICS = (
    ("adj", "all pert"),
    ("adv", "all"),
    (
        "noun",
        "Tops act animal artifact attribute body cognition communication event feeling food group "
        "location motive object person phenomenon plant possession process quantity relation shape state "
        "substance time",
    ),
    (
        "verb",
        "body change cognition communication competition consumption contact creation emotion motion "
        "perception possession social stative weather",
    ),
    ("adj", "ppl"),
)
LEXNAMES = tuple(f"{part}.{topic}" for part, topics in _TOPICS for topic in topics.split())
"""By the number of the lexicographer's file: lexnames(5)."""


def graph(folder: Path) -> Hetero:
    """The graph of a folder with the four files; ValueError for a line that is no synset."""
    names: dict[tuple[str, str], str] = {}
    nodes: list[tuple[str, str, dict[str, str]]] = []
    pointers: list[tuple[str, str, tuple[str, str]]] = []
    for part, letter in PARTS.items():
        path = folder / f"data.{part}"
        for line in path.read_text(encoding="utf-8").split("\n"):
            if not line or line[0] == " ":  # the licence stands above
                continue
            try:
                words = line.split(" | ")[0].split()
                name = f"{words[4].split('(')[0]}.{letter}.{words[0]}"
                nodes.append(("synset", name, {"pos": part, "lexname": LEXNAMES[int(words[1])]}))
                names[letter, words[0]] = name
                pointers += [(name, kind, other) for kind, other in _pointers(words)]
            except (IndexError, KeyError, ValueError) as error:
                raise ValueError(f"{path} is damaged: {line[:40]!r} is no synset.") from error
    return typed(
        nodes, ((("synset", name), kind, ("synset", names[other])) for name, kind, other in pointers)
    )


def _pointers(words: list[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    first = 5 + 2 * int(words[3], 16)
    for i in range(first, first + 4 * int(words[first - 1]), 4):
        symbol, offset, letter, _ = words[i : i + 4]
        yield POINTERS[symbol], (letter, offset)
