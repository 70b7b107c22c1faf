"""Importing the core costs little more than torch, and help comes at once: heavy imports are lazy."""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path
from time import perf_counter

import pytest

# Compiled modules are kept between runs, as they are wherever people import twice.
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
COMMANDS = sorted({e.name for e in entry_points(group="console_scripts") if e.value.startswith("diffkit.")})


def import_seconds(module: str) -> float:
    """CPU seconds of the import in a fresh interpreter; the clock would count who else uses the machine."""
    code = f"from time import process_time as now; t = now(); import {module}; print(now() - t)"
    run = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True)
    return float(run.stdout)


@pytest.mark.slow
def test_import_of_the_core():
    pairs = [(import_seconds("torch"), import_seconds("diffkit.core")) for _ in range(5)]
    torch, core = map(min, zip(*pairs[1:], strict=True))  # the first pair compiles the modules
    assert core <= 1.3 * torch, f"diffkit.core {core:.2f} s, torch {torch:.2f} s"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick(command: str):
    script = Path(sysconfig.get_path("scripts")) / command
    seconds = []
    for _ in range(4):
        start = perf_counter()
        run = subprocess.run([script, "--help"], env=ENV, capture_output=True, text=True)
        seconds.append(perf_counter() - start)
        assert run.returncode == 0, run.stderr
        assert command in run.stdout
    assert min(seconds) < 2, f"{command} --help took {min(seconds):.2f} s"
