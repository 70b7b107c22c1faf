import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from diffkit.core.train import run
from diffkit.speech import Enhancer, audio
from diffkit.speech.cli import main
from diffkit.speech.data import PairedFolder
from diffkit.speech.model import TFNet
from diffkit.speech.spectrum import Spectrum

RATE = 16000
SECONDS = 0.25
TINY: dict[str, Any] = {"widths": [4, 8], "strides": [8, 4], "depth": 1, "paths": 1}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs to train with and one to validate with, each of one crop's length."""
    root = tmp_path_factory.mktemp("pairs")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 4), ("valid", 1)):
        for side in ("clean", "noisy"):
            (root / split / side).mkdir(parents=True)
            for index in range(count):
                wave = 0.1 * torch.randn(1, round(SECONDS * RATE), generator=generator)
                audio.write(root / split / side / f"{index}.wav", wave, RATE, "FLOAT")
    return root


@pytest.fixture
def arguments(pairs: Path, tmp_path: Path) -> list[str]:
    """What both the command and the script are given."""
    settings: dict[str, Any] = {
        "seed_everything": 1,
        "model.network": "diffkit.speech.model.TFNet",
        "model.network.init_args": TINY,
        "model.process": "diffkit.core.bridge.SBVE",
        "data.paired": pairs,
        "data.seconds": SECONDS,
        "data.num_workers": 0,
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": tmp_path,
        "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
        "trainer.logger.save_dir": tmp_path,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.num_sanity_val_steps": 0,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def test_two_processes_have_the_gradient_of_one(arguments: list[str], pairs: Path, tmp_path: Path):
    script = Path(__file__).with_name("train_script.py")
    done = subprocess.run(
        [
            *(sys.executable, script, *arguments),
            *("--data.batch_size=2", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"),
            *("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.callbacks+=__main__.Gradient"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    record = torch.load(tmp_path / "first_step.pt", weights_only=True)
    assert record["processes"] == 2

    network, spectrum = TFNet(**TINY), Spectrum()
    network.load_state_dict(record["weights"])
    clean, noisy = (torch.stack(side) for side in zip(*PairedFolder(pairs / "train"), strict=True))
    x0, y = spectrum(clean), spectrum(noisy)
    (network(y, torch.ones(len(y)), y) - x0).square().mean().backward()
    gradient = {name: p.grad for name, p in network.named_parameters()}
    assert any(g.abs().max() > 1e-6 for g in gradient.values() if g is not None)
    for name, mean in gradient.items():
        torch.testing.assert_close(record["gradient"][name], mean, rtol=1e-4, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_resumes_and_exports(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainers: list[Trainer] = []
    real = run.train
    monkeypatch.setattr(run, "train", lambda *args, **kwargs: trainers.append(real(*args, **kwargs)))
    arguments = ["train", *arguments, "--data.batch_size=2"]
    arguments.append("--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint")
    arguments += ["--trainer.callbacks.save_last=true", f"--trainer.callbacks.dirpath={tmp_path}/kept"]
    assert main([*arguments, "--trainer.max_epochs=1"]) == 0
    assert main([*arguments, "--trainer.max_epochs=3", "--resume=last"]) == 0
    assert [trainer.global_step for trainer in trainers] == [2, 6]
    assert [trainer.current_epoch for trainer in trainers] == [1, 3]
    configs = sorted(tmp_path.rglob("config.yaml"))
    assert any("max_epochs: 3" in path.read_text() for path in configs)
    wave = 0.1 * torch.randn(RATE)
    assert Enhancer.from_pretrained(tmp_path / "checkpoint", "cpu").enhance(wave, RATE).shape == wave.shape


def test_nothing_to_resume(arguments: list[str], capsys: Any):
    assert main(["train", *arguments, "--resume=last"]) == 2
    assert "no .ckpt to resume" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--bogus=1", "--model.rollout=often", "--config=nowhere.yaml"])
def test_a_wrong_argument_gets_one_sentence(arguments: list[str], capsys: Any, wrong: str):
    assert main(["train", *arguments, wrong]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert wrong.split("=")[-1] in said


def test_print_config(arguments: list[str], capsys: Any):
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments, "--print_config"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "class_path: diffkit.core.bridge.SBVE" in shown
    assert "max_epochs:" in shown
