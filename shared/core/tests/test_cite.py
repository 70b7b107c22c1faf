"""Citations: every method knows its papers, and every paper that a docstring names has an entry."""

import re
from pathlib import Path

import pytest

import diffkit.core
from diffkit.core import cli
from diffkit.core.bridge import OUVE
from diffkit.core.cite import bibliography, cite, names, papers
from diffkit.core.grid import GRIDS, karras, uniform
from diffkit.core.joint import Joint
from diffkit.core.process import VP, Gaussian
from diffkit.core.solvers import Solver, adams, ddim, pc

PLAIN = set(GRIDS) - {"karras", "beta", "shifted", "ays", "few_steps", "kl_optimal"} | {"refine"}
"""Names without a paper: grids that everyone draws, and our own search."""


@pytest.mark.parametrize("name", sorted(set(names()) - PLAIN))
def test_every_name_has_papers_with_entries(name: str) -> None:
    assert papers(name)
    assert set(papers(name)) <= set(bibliography())


def test_every_paper_in_a_docstring_of_the_lower_floors_has_an_entry() -> None:
    root = Path(diffkit.core.__file__ or "").parent
    files = [f for f in root.rglob("*.py") if "train" not in f.parts]
    named = {paper for f in files for paper in re.findall(r"\b\d{4}\.\d{5}\b", f.read_text(encoding="utf-8"))}
    assert named
    assert named <= set(bibliography())


def test_an_object_is_cited_as_its_name() -> None:
    assert papers(adams(3)) == papers(adams) == papers("adams") == ["2302.04867", "2502.07856"]
    assert papers(pc()) == papers("pc") == ["2011.13456"]
    assert papers(karras(8)) == papers("karras") == ["2206.00364"]
    assert papers(VP()) == papers(VP) == papers("VP") == ["2011.13456"]
    assert papers(Joint({"x": VP(), "adj": OUVE()})) == ["2011.13456", "2208.05830"]
    assert papers("ancestral") == papers(ddim(1.0))


def test_entries_are_printed_once() -> None:
    text = cite("VP", VP(), "pc", ddim(), uniform(4))
    assert text.count("@misc{") == 3
    assert text.count("eprint = {2011.13456}") == 1
    assert text.startswith("@misc{song2011.13456,\n  author = {Song, Yang and ")
    assert all(len(re.findall(r"^  \w+ = \{.+\},$", entry, re.M)) == 5 for entry in bibliography().values())


def test_what_has_no_paper_adds_nothing() -> None:
    class Own(Gaussian):
        """A process of a user."""

    assert cite(Own) == ""
    assert cite(Solver("own", 1, lambda process, grid: iter(()))) == ""


def test_bad_parts_get_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"no method 'adms' \(did you mean 'adams'\?\)"):
        cite("adms")
    with pytest.raises(ValueError, match="cite its solver or search"):
        cite(ddim()(VP(), uniform(2)))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cite", "adams", "VP"]) == 0
    assert capsys.readouterr().out.strip() == cite("adams", "VP")
    assert cli.main(["cite", "--help"]) == 0
    assert "dpmpp_2m" in capsys.readouterr().out
    assert cli.main(["cite", "adms"]) == 2
