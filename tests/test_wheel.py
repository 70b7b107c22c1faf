"""The wheels alone, in an empty environment outside the checkout, do what the README promises."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
import soundfile

pytestmark = [pytest.mark.slow, pytest.mark.network]

# The commands must find nothing of the checkout or of the environment that runs these tests.
ENV = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def call(*command: str | Path, cwd: Path) -> str:
    """What a command prints; a failure shows its complaint."""
    run = subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheels(root: Path, uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of each package of the workspace."""
    folder = tmp_path_factory.mktemp("wheels")
    call(uv, "build", "--all-packages", "--wheel", "--out-dir", folder, cwd=root)
    return folder


@pytest.fixture
def install(root: Path, uv: str, wheels: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Installs one domain and its core at the locked versions; returns the folder of its commands."""

    def install(domain: str) -> Path:
        venv = tmp_path / "venv"
        found = [next(wheels.glob(f"diffkit_{name}-*.whl")) for name in ("core", domain)]
        call(uv, "venv", "--python", sys.executable, venv, cwd=tmp_path)
        scripts = venv / ("Scripts" if os.name == "nt" else "bin")
        pins = root / "requirements.lock"
        call(
            uv, "pip", "install", "--python", scripts / "python", "--constraints", pins, *found, cwd=tmp_path
        )
        return scripts

    return install


def test_contents(wheels: Path):
    for path in wheels.glob("*.whl"):
        dist, version = path.name.split("-")[:2]
        package, info = dist.replace("_", "/", 1), f"{dist}-{version}.dist-info"
        with ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if not name.endswith("/")]
        strangers = [name for name in names if not name.startswith((f"{package}/", f"{info}/"))]
        assert not strangers, f"{path.name} carries {strangers}"
        assert f"{package}/py.typed" in names
        assert f"{info}/licenses/LICENSE" in names


def test_speech_enhances_its_examples(root: Path, install: Callable[[str], Path], tmp_path: Path):
    scripts = install("speech")
    origin = call(scripts / "python", "-c", "import diffkit.speech as s; print(s.__file__)", cwd=tmp_path)
    assert scripts.parent in Path(origin.strip()).parents

    folder = root / "packages/speech/examples"
    examples = [path for path in sorted(folder.iterdir()) if path.suffix in {".wav", ".flac"}][:2]
    noisy, clean = tmp_path / "noisy", tmp_path / "clean"
    noisy.mkdir()
    for example in examples:
        shutil.copy(example, noisy)
    call(scripts / "diffkit-speech", "enhance", "noisy", "clean", cwd=tmp_path)

    assert examples
    for example in examples:
        before, after = soundfile.info(example), soundfile.info(clean / example.name)
        assert (after.frames, after.samplerate, after.channels) == (
            before.frames,
            before.samplerate,
            before.channels,
        )
        assert (clean / example.name).read_bytes() != example.read_bytes()
    assert len(list(clean.glob("*.png"))) == len(examples)
