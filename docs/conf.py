"""Sphinx: pages in Markdown (MyST), the API from the docstrings. Builds without a network:
`uv run --all-packages --group docs sphinx-build -W docs docs/_build`.
"""

import re
from typing import Any

from sphinx.application import Sphinx

project = "diffkit"
author = "the diffkit authors"
copyright = author
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "diffkit"
highlight_language = "text"  # an indented block is more often an equation than Python

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
    "ignore-module-all": True,  # an object is described where it is defined, not where it is exported again
}
autosummary_ignore_module_all = True
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # a base class of a library keeps its documentation to itself
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

CODE_OR_MARKUP = re.compile(r"``.+?``|(?::\w+:)?`[^`]+`|[*|\\]|_(?!\w)")


def plain(text: str) -> str:
    """A line of prose as reStructuredText: |x|, a* and x_ mean themselves, `code` is code, and "* " begins an item."""

    def as_rst(found: re.Match[str]) -> str:
        token = found[0]
        if token.startswith(("``", ":")):
            return token
        return f"`{token}`" if token.startswith("`") else f"\\{token}"

    item = re.match(r" *\* ", text)
    marker = item[0] if item else ""
    return marker + CODE_OR_MARKUP.sub(as_rst, text.removeprefix(marker))


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text, readable with help(): indented paragraphs are equations or code."""
    if lines[0].startswith("Alias for field number"):  # what Python says of every NamedTuple
        lines.clear()
        return
    # Napoleon takes what stands before a colon on an attribute's first line for its type: give it a comment.
    result = ["..", ""] if what in {"attribute", "property"} else []
    literal: int | None = None  # the indent of the text around the verbatim block we are in
    previous = ""  # the last line that was not empty
    for line in lines:
        if line.strip():
            if literal is not None and indent(line) <= literal:
                literal = None
            if literal is None and previous and not result[-1].strip() and indent(line) > indent(previous):
                literal = indent(previous)
                result += [" " * literal + "::", ""]
            previous = line if literal is None else previous
        result.append(line if literal is not None else plain(line))
    lines[:] = result


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", process_docstring, priority=100)  # before napoleon's 500
