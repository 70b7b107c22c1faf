"""The command line: typed functions as commands, one sentence for what a user did wrong."""

import errno
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest

from diffkit.core import cli
from diffkit.core.cli import Raw, progress, run, sentence


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture
def tool(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.delenv("DIFFKIT_TRACEBACK", raising=False)

    def draw(
        where: Path,
        count: int = 1,
        seed: int | None = None,
        law: Literal["normal", "uniform"] = "normal",
        fast: bool = False,
        safe: bool = True,
    ) -> int:
        """Draw some samples.

        Args:
            where: a folder.
            count: how many there are to be.
            fast: hurry up.
        """
        calls.append((where, count, seed, law, fast, safe))
        return 3

    def fail(kind: str) -> None:
        """Fail."""
        raise {
            "value": ValueError("the first line\n  and the second."),
            "file": FileNotFoundError(errno.ENOENT, "No such file or directory", "a.wav"),
            "disk": OSError(errno.ENOSPC, "the disk is full."),
            "nan": FloatingPointError("the loss is nan."),
            "key": KeyError("a defect"),
            "interrupt": KeyboardInterrupt(),
        }[kind]

    commands = {"draw": draw, "fail": fail, "raw": Raw(calls.append, "Take anything.")}

    def tool(*argv: str) -> int:
        return run(commands, prog="tool", version="1.2.3", about="A tool for tests.", argv=argv)

    return tool


def test_arguments_have_the_types_of_the_function(tool: Callable[..., int], calls: list[Any]):
    assert tool("draw", "here", "--count", "5", "--seed", "7", "--law", "uniform", "--fast", "--no_safe") == 3
    assert tool("draw", "there") == 3
    assert calls == [
        (Path("here"), 5, 7, "uniform", True, False),
        (Path("there"), 1, None, "normal", False, True),
    ]


def test_a_config_file_and_what_overrides_it(tool: Callable[..., int], calls: list[Any], tmp_path: Path):
    (tmp_path / "draw.yaml").write_text("count: 4\nfast: true\n")
    assert tool("draw", "here", "--config", str(tmp_path / "draw.yaml"), "--seed", "1") == 3
    assert calls == [(Path("here"), 4, 1, "normal", True, True)]


def test_print_config(tool: Callable[..., int], calls: list[Any], capsys: Any):
    with pytest.raises(SystemExit) as stop:
        tool("draw", "here", "--count", "5", "--print_config")
    assert stop.value.code == 0
    assert "count: 5\n" in capsys.readouterr().out
    assert not calls


def test_raw_arguments(tool: Callable[..., int], calls: list[Any]):
    assert tool("raw", "--help", "--x.y", "z") == 0
    assert calls == [["--help", "--x.y", "z"]]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nothing"], ["'nothing' is not a command", "draw, fail, raw"]),
        (["draw"], ["required: where", "tool draw --help"]),
        (["draw", "here", "there"], ["Unrecognized", "there"]),
        (["draw", "here", "--speed", "1"], ["Unrecognized", "--speed"]),
        (["draw", "here", "--count", "many"], ["count cannot be 'many': it takes int"]),
        (["draw", "here", "--seed", "x"], ["seed cannot be 'x': it takes int | None"]),
        (["draw", "here", "--law", "cauchy"], ["law cannot be 'cauchy'", "'normal', 'uniform'"]),
        (["draw", "here", "--config", "none.yaml"], ["none.yaml"]),
        (["fail", "value"], ["the first line and the second."]),
        (["fail", "file"], ["a.wav: No such file or directory."]),
        (["fail", "disk"], ["tool: the disk is full."]),
        (["fail", "nan"], ["the loss is nan."]),
    ],
)
def test_a_mistake_gets_one_sentence(
    tool: Callable[..., int], calls: list[Any], capsys: Any, argv: list[str], words: list[str]
):
    assert tool(*argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("tool: ")
    assert all(word in said.err for word in words), said.err
    assert not calls


def test_an_interrupt_has_the_status_of_one(tool: Callable[..., int], capsys: Any):
    assert tool("fail", "interrupt") == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_defect_is_not_dressed_up(tool: Callable[..., int], monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(KeyError):
        tool("fail", "key")
    monkeypatch.setenv("DIFFKIT_TRACEBACK", "1")
    with pytest.raises(FloatingPointError):
        tool("fail", "nan")


def test_help(tool: Callable[..., int], capsys: Any):
    assert tool() == tool("--help") == tool("-h") == 0
    listed = capsys.readouterr().out
    assert listed.count("A tool for tests.") == 3
    assert listed.count("Draw some samples.") == listed.count("Take anything.") == 3
    with pytest.raises(SystemExit) as stop:
        tool("draw", "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "how many there are to be." in shown
    assert "hurry up." in shown


def test_version(tool: Callable[..., int], capsys: Any):
    assert tool("--version") == 0
    assert capsys.readouterr().out == "tool 1.2.3\n"


def test_the_message_of_an_exception_without_one():
    assert sentence(ValueError()) == "ValueError"


def test_progress_is_on_stderr(capsys: Any):
    with progress(2.0) as step:
        step("half [of it]", 1.0)
        step("all", 1.0)
    said = capsys.readouterr()
    assert said.out == ""
    assert "100%" in said.err


def received(argv: list[str]) -> int:
    """Stands for the command of a domain."""
    return len(argv)


def test_diffkit_lists_domains_and_forwards(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    entry = EntryPoint("diffkit-pottery", f"{__name__}:received", "console_scripts")
    monkeypatch.setattr(EntryPoint, "load", lambda self: received)
    monkeypatch.setattr(cli, "domains", lambda: {"pottery": entry})
    assert cli.main([]) == 0
    assert "pottery" in capsys.readouterr().out
    assert cli.main(["pottery", "throw", "--glaze", "blue"]) == 3
    assert cli.main(["carpentry"]) == 2


def test_installed_domains_have_commands():
    for name, entry in cli.domains().items():
        assert entry.name == f"diffkit-{name}"
        assert callable(entry.load())
