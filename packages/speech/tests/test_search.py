"""Plans for a checkpoint: searched, used by --plan, and drawn against fixed solvers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffkit.core import saved
from diffkit.core.grid import uniform
from diffkit.core.process import VP
from diffkit.core.solvers import ddim
from diffkit.speech import Enhancer, audio, checkpoints, problem
from diffkit.speech.cli import main

RATE = 16000


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(problem, "SECONDS", 0.25)
    monkeypatch.delenv("DIFFKIT_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    generator = torch.Generator().manual_seed(0)
    for k in range(4):
        audio.write(
            tmp_path / "in" / f"{k}.wav", 0.1 * torch.randn(1, RATE // 5 * (k + 1), generator=generator), RATE
        )
    return tmp_path / "in"


def test_a_plan_is_found_and_used(recordings: Path, wild: Path, capsys: Any):
    assert main(["search", str(wild), str(recordings), "--method", "boss", "--budget", "3"]) == 0
    assert "3 calls" in capsys.readouterr().out
    record = saved.read("plan.json")
    assert record["checkpoint"] == saved.fingerprint(wild)
    assert record["inputs"] == {"search": 2, "held_out": 2}
    command = ["enhance", str(recordings), "out", "--model", str(wild), "--no_picture"]
    assert main([*command, "--plan", "plan.json"]) == 0
    wave, rate = audio.read(recordings / "3.wav")
    own = Enhancer.from_pretrained(wild, "cpu", plan="plan.json").enhance(wave, rate)
    torch.testing.assert_close(audio.read("out/3.wav")[0], own, atol=1e-4, rtol=0)  # 16-bit
    assert not torch.equal(own, Enhancer.from_pretrained(wild, "cpu").enhance(wave, rate))


def test_a_plan_of_a_solver_is_the_solver(recordings: Path, wild: Path):
    model = checkpoints.load(wild)
    saved.save("plan.json", ddim()(model.process, uniform(3)), model.process, checkpoint=wild)
    wave, rate = audio.read(recordings / "0.wav")
    planned = Enhancer.from_pretrained(wild, "cpu", plan="plan.json").enhance(wave, rate)
    assert torch.equal(
        planned, Enhancer.from_pretrained(wild, "cpu").enhance(wave, rate, solver="ddim", steps=3)
    )


def test_quality_against_calls(recordings: Path, wild: Path, capsys: Any):
    process = checkpoints.load(wild).process
    saved.save("mine.json", ddim()(process, uniform(2)), process, checkpoint=wild)
    options = ["--budgets", "1,2", "--solvers", "ddim,adams", "--plans", "mine.json", "--reference", "5"]
    assert main(["calls", str(wild), str(recordings), *options]) == 0
    said = json.loads(Path("calls.json").read_text())
    found = {(point["method"], point["calls"]): point["error"] for point in said["points"]}
    assert set(found) == {("ddim", 1), ("ddim", 2), ("adams", 1), ("adams", 2), ("mine", 2)}
    assert found["mine", 2] == found["ddim", 2] < found["ddim", 1]
    assert Path("calls.png").exists()
    assert "| error at calls | 1 | 2 |" in capsys.readouterr().out


@pytest.mark.parametrize("sides", [("clean", "noisy"), ("anechoic", "reverb")])
def test_known_answers_are_scored(recordings: Path, identity: Path, sides: tuple[str, str]):
    for side in sides:
        (recordings / side).mkdir()
    for path in sorted(recordings.glob("*.wav")):
        wave, rate = audio.read(path)
        audio.write(recordings / sides[0] / path.name, wave, rate)
        audio.write(recordings / sides[1] / path.name, wave + 0.1 * wave.roll(400), rate)
        path.unlink()
    both = problem.problems(identity, recordings, 4, "cpu")
    assert [len(half.like) for half in both] == [2, 2]
    assert not set(both[0].seeds) & set(both[1].seeds)
    for half in both:
        assert half.score is not None
        assert half.score(half.reference(2))["si_sdr"] == pytest.approx(20, abs=1.5)


class TestWrongUse:
    @pytest.fixture
    def refuse(self, recordings: Path, wild: Path, capsys: Any):
        def refuse(*options: str) -> str:
            command = ["enhance", str(recordings), "out", "--model", str(wild), "--plan", "plan.json"]
            assert main([*command, *options]) == 2
            assert not Path("out").exists()
            return capsys.readouterr().err

        return refuse

    def test_another_process(self, refuse: Any):
        saved.save("plan.json", ddim()(VP(), uniform(3)), VP())
        assert "found on VP(" in refuse()

    def test_another_checkpoint(self, refuse: Any, identity: Path):
        process = checkpoints.load(identity).process
        saved.save("plan.json", ddim()(process, uniform(3)), process, checkpoint=identity)
        assert "other weights" in refuse()

    def test_no_plan(self, refuse: Any, wild: Path):
        saved.save("plan.json", [1, 2], checkpoints.load(wild).process)
        assert "holds no plan" in refuse()

    def test_a_solver_as_well(self, refuse: Any, wild: Path):
        process = checkpoints.load(wild).process
        saved.save("plan.json", ddim()(process, uniform(3)), process)
        assert "leave out solver and steps" in refuse("--steps", "3")

    def test_no_such_file(self, refuse: Any):
        assert "plan.json: No such file" in refuse()

    def test_one_input_is_not_enough(self, recordings: Path, wild: Path, capsys: Any):
        assert main(["search", str(wild), str(recordings / "0.wav")]) == 2
        assert "two are needed" in capsys.readouterr().err
