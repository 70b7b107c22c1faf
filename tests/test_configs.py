"""Every configuration of training says its command, which parses, and has a network that can be built."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from diffkit.core.checkpoint import construct

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"^#   diffkit-(\w+) (train .*)$", re.MULTILINE)


@pytest.mark.parametrize("path", sorted(ROOT.glob("packages/*/configs/*.yaml")), ids=lambda path: path.stem)
def test_the_command_of_a_config(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = COMMAND.search(path.read_text())
    assert found, "no line with its command"
    domain, words = found[1], found[2].split()
    where = path.relative_to(ROOT).as_posix()
    assert where.split("/")[1] == domain
    words[words.index(where)] = str(path)
    with pytest.raises(SystemExit) as end:
        import_module(f"diffkit.{domain}.cli").main([*words, "--print_config"])
    assert end.value.code == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert construct(model["network"]).arguments == model["network"]["init_args"]
