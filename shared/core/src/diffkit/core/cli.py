"""The command line of every package, and `diffkit`, which lists the installed domains and forwards to them.

A command is a typed function. Its parameters are the arguments (those without a default by position), its
docstring is the help, a bool is the pair of flags ``--name`` and ``--no_name``, a list is ``--name a,b``, and
what it returns, if an int, is the exit status. ``--config FILE`` and ``--print_config`` come with every command.

What a user did wrong reaches them as one sentence on stderr and exit status 2: a command raises
``ValueError``, ``OSError`` or ``FloatingPointError`` for it. Any other exception is a defect of ours and
shows its traceback, as do all of them where the environment has ``DIFFKIT_TRACEBACK=1``.
"""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from inspect import cleandoc, signature
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class Raw:
    """A command that reads its own arguments: ``call(argv)``, with ``summary`` for the list of commands."""

    call: Callable[[list[str]], Any]
    summary: str


Command: TypeAlias = Callable[..., Any] | Raw

USAGE = 2
INTERRUPTED = 130


def run(
    commands: Mapping[str, Command],
    *,
    prog: str,
    version: str,
    about: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Run the command that ``argv`` (default: that of the process) names, and return the exit status.

    Args:
        commands: by name, in the order of the help.
        prog: what the user typed to come here.
        version: for ``--version``.
        about: one line for the help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(commands, prog, version, about, arguments)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; what was finished is kept.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, FloatingPointError, ArgumentError) as error:
        if os.environ.get("DIFFKIT_TRACEBACK"):
            raise
        print(f"{prog}: {sentence(error)}", file=sys.stderr)
        return USAGE
    return status if isinstance(status, int) else 0


def sentence(error: BaseException) -> str:
    """The message of an exception on one line, without Python's decoration."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}." if error.filename else error.strerror
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def progress(total: float | None, *, show: bool = True) -> Generator[Callable[[str, float], None]]:
    """A bar with the time left, on stderr; gives ``step(description, advance)`` in units of ``total``.

    Where the total is not known (None) the bar only moves.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("", total=total)
        yield lambda description, advance: bar.update(task, description=description, advance=advance)


def domains() -> dict[str, metadata.EntryPoint]:
    """The installed domains: the name after ``diffkit-`` of each command that a package of ours brings."""
    return {
        entry.name.removeprefix("diffkit-"): entry
        for entry in sorted(metadata.entry_points(group="console_scripts"), key=lambda entry: entry.name)
        if entry.name.startswith("diffkit-") and entry.value.startswith("diffkit.")
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``diffkit``: ``diffkit speech enhance ...`` is ``diffkit-speech enhance ...``."""
    commands: dict[str, Command] = {}
    for name, entry in domains().items():
        about = entry.dist.metadata["Summary"] if entry.dist else ""
        version = entry.dist.version if entry.dist else ""
        commands[name] = Raw(lambda rest, entry=entry: entry.load()(rest), f"{version}  {about}")
    commands["cite"] = Raw(_cite, "BibTeX of solvers, processes, grids and searches by name")
    return run(
        commands,
        prog="diffkit",
        version=metadata.version("diffkit-core"),
        about="Diffusion models for seven domains; a command is an installed package diffkit-COMMAND.",
        argv=argv,
    )


def _cite(argv: list[str]) -> int:
    from diffkit.core.cite import command

    return command(argv)


def _dispatch(commands: Mapping[str, Command], prog: str, version: str, about: str, argv: list[str]) -> Any:
    name, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help"):
        print(_overview(commands, prog, about))
        return 0
    if name == "--version":
        print(f"{prog} {version}")
        return 0
    if name not in commands:
        raise ValueError(f"{name!r} is not a command; the commands are {', '.join(commands) or 'none'}.")
    command = commands[name]
    if isinstance(command, Raw):
        return command.call(rest)
    return command(**_parse(command, f"{prog} {name}", rest))


def _overview(commands: Mapping[str, Command], prog: str, about: str) -> str:
    width = max(map(len, commands), default=0) + 2
    lines = [f"  {name:{width}}{_summary(command)}" for name, command in commands.items()]
    return "\n".join(
        [
            f"usage: {prog} COMMAND [ARGUMENTS]",
            f"       {prog} COMMAND --help",
            f"       {prog} --version",
            "",
            about,
            "",
            "commands:",
            *(lines or ["  none is installed"]),
        ]
    )


def _summary(command: Command) -> str:
    return command.summary if isinstance(command, Raw) else cleandoc(command.__doc__ or "").split("\n")[0]


def _parse(command: Callable[..., Any], prog: str, argv: list[str]) -> dict[str, Any]:
    """The keyword arguments of ``command`` that ``argv`` gives."""
    parser = _parser(command, prog)
    try:
        found = parser.instantiate(parser.parse_args(_bracketed(command, argv))).as_dict()
    except ArgumentError as error:
        raise ValueError(f"{_explain(command, str(error))} (`{prog} --help` shows all arguments)") from None
    return {name: found[name] for name in signature(command).parameters}


def _parser(command: Callable[..., Any], prog: str) -> "ArgumentParser":
    from docstring_parser import parse
    from jsonargparse import ActionYesNo, ArgumentParser

    doc = parse(command.__doc__ or "")
    parser = ArgumentParser(prog=prog, description=doc.description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="A YAML file with any of the arguments.")
    flags = {name: p.default for name, p in signature(command).parameters.items() if p.annotation is bool}
    parser.add_function_arguments(command, as_group=False, as_positional=True, skip=set(flags))
    helps = {parameter.arg_name: parameter.description for parameter in doc.params}
    for name, default in flags.items():
        parser.add_argument(f"--{name}", action=ActionYesNo, default=default, help=helps.get(name))
    return parser


def _bracketed(command: Callable[..., Any], argv: list[str]) -> list[str]:
    """``--names a,b`` of a list as ``--names [a,b]``, which is how the parser knows it."""
    lists = {f"--{name}" for name, p in signature(command).parameters.items() if "list[" in str(p.annotation)}
    return [
        f"[{word}]" if before in lists and not word.startswith("[") else word
        for before, word in zip(["", *argv], argv, strict=False)
    ]


def _explain(command: Callable[..., Any], message: str) -> str:
    """One sentence of a parser's complaint, which may be a page about the types it tried."""
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    if not key or not value:
        text = " ".join(message.split())
        return f"{text[0].upper()}{text[1:].rstrip('.')}."
    parameter = signature(command).parameters[key[1]]
    wanted = parameter.annotation
    kind = wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
    return f"{key[1]} cannot be {value[1].strip()!r}: it takes {kind}."
