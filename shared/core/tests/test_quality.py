"""Quality against calls, and the commands that every domain has, on a mixture as the domain."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core import quality, saved
from diffkit.core.cli import run
from diffkit.core.commands import commands
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import VP
from diffkit.core.quality import Point, Problem, fixed, measure, picture, table
from diffkit.core.sample import sample
from diffkit.core.search import METHODS
from diffkit.core.search.statistics import load
from diffkit.core.solvers import adams, ddim

MIXTURE, PROCESS = Mixture.reference(), VP()
CHECKPOINT: Path | None = None


def denoise(x: Tensor, t: Tensor) -> Tensor:
    return MIXTURE.denoise(PROCESS, x, t)


def problems(checkpoint: str, inputs: Path, count: int, device: str) -> list[Problem]:
    half = count // 2
    return [
        Problem(
            denoise,
            PROCESS,
            torch.zeros(half, 1, dtype=torch.float64),
            range(k * half, (k + 1) * half),
            score=lambda x: {"spread": float(x.std())},
            checkpoint=CHECKPOINT,
        )
        for k in range(2)
    ]


class TestProblem:
    def test_starts_of_a_search_are_those_of_sampling(self) -> None:
        y = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
        problem = Problem(lambda x, t: torch.tanh(x), VP(), torch.zeros_like(y), range(6), y=y)
        plan = adams(2)(VP(), uniform(5, 0.9))
        centred, z = problem.centred(0.9)
        torch.testing.assert_close(integrate(centred, z, plan), problem.sample(plan=plan))

    def test_a_solver_has_as_many_steps_as_the_budget_has_calls(self) -> None:
        (problem,) = problems("", Path(), 2, "cpu")[:1]
        runs = {name: fixed(problem, name, "own", [1, 4, 5]) for name in ("ddim", "heun")}
        assert [run.calls for run in runs["ddim"]] == [1, 4, 5]
        assert [run.calls for run in runs["heun"]] == [1, 3, 5]
        assert torch.equal(runs["ddim"][2].how["plan"].V, ddim()(PROCESS, uniform(5)).V)
        (on_lambda,) = fixed(problem, "ddim", "lam_uniform", [4])
        torch.testing.assert_close(on_lambda.how["plan"].t, lam_uniform(4)(PROCESS)[:-1])

    def test_a_sampler_stands_at_the_calls_that_it_took(self) -> None:
        both = problems("", Path(), 4, "cpu")
        points = measure(both, {"pc": fixed(both[0], "pc", "own", [3])}, steps=10)
        assert [point.calls for point in points] == [6]  # a correction and a prediction at each step

    def test_names_that_do_not_exist(self) -> None:
        (problem,) = problems("", Path(), 2, "cpu")[:1]
        with pytest.raises(ValueError, match="did you mean 'ddim'"):
            fixed(problem, "dddim", "own", [4])
        with pytest.raises(ValueError, match="no grid 'round'"):
            fixed(problem, "ddim", "round", [4])
        with pytest.raises(ValueError, match="needs statistics"):
            fixed(problem, "dpm_v3", "own", [4])
        with pytest.raises(ValueError, match="no plan of so few calls"):
            fixed(problem, "ddim", "own", [0])


def test_errors_are_those_of_all_problems_and_fall() -> None:
    both = problems("", Path(), 32, "cpu")
    seen: list[tuple[str, int]] = []
    points = measure(
        both, {"ddim": fixed(both[0], "ddim", "own", [2, 8])}, advance=lambda *s: seen.append(s), steps=50
    )
    assert [(point.method, point.calls) for point in points] == [("ddim", 2), ("ddim", 8)]
    assert points[1].error < 0.5 * points[0].error
    assert seen == [("reference", 50)] * 2 + [("ddim", 2)] * 2 + [("ddim", 8)] * 2

    def ends(steps: int, solver) -> Tensor:
        return torch.cat([p.sample(solver=solver, grid=uniform(steps)) for p in both])

    truth, found = ends(50, adams(3)), ends(2, ddim())
    assert points[0].error == pytest.approx(float((found - truth).norm() / truth.norm()), rel=1e-12)
    spread = sum(float(half.std()) for half in found.split(16)) / 2
    assert points[0].scores["spread"] == pytest.approx(spread, rel=1e-12)


POINTS = [
    Point("slow", 2, 0.5, {}),
    Point("slow", 4, 0.25, {"pesq": 2.0}),
    Point("fast", 4, 0.125, {"pesq": 3.0}),
]


def test_table() -> None:
    assert table(POINTS).splitlines() == [
        "| error at calls | 2 | 4 |",
        "|---|---|---|",
        "| slow | **0.5** | 0.25 |",
        "| fast |  | **0.125** |",
        "",
        "| pesq at calls | 2 | 4 |",
        "|---|---|---|",
        "| slow |  | 2.000 |",
        "| fast |  | 3.000 |",
    ]


def test_picture(tmp_path: Path) -> None:
    picture(POINTS, tmp_path / "one.png", title="cost $5")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.delenv("DIFFKIT_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)

    def tool(name: str, *options: str) -> int:
        argv = [name, "checkpoint", "inputs", *options]
        return run(commands(problems), prog="tool", version="0", about="A tool.", argv=argv)

    return tool


class TestSearch:
    @pytest.mark.parametrize("method", ["olss", "boss"])
    def test_a_plan_is_found_saved_and_serves(
        self, tool: Callable[..., int], method: str, capsys: Any
    ) -> None:
        assert tool("search", "--method", method, "--budget", "5", "--count", "256") == 0
        record = saved.read("plan.json")
        assert (record["method"], record["budget"]) == (method, 5)
        assert record["error"]["after"] < record["error"]["before"]
        assert "5 calls" in capsys.readouterr().out
        plan = saved.load("plan.json", PROCESS)
        assert isinstance(plan, Plan)
        own = sample(denoise, PROCESS, (200, 1), plan=plan, seeds=range(1000, 1200))
        many = sample(denoise, PROCESS, (200, 1), solver=adams(3), grid=uniform(100), seeds=range(1000, 1200))
        assert float((own - many).norm() / many.norm()) < 2 * record["error"]["after"]

    @pytest.mark.parametrize("method", sorted(set(METHODS) - {"olss", "boss"}))
    def test_every_method_runs(self, tool: Callable[..., int], method: str) -> None:
        assert tool("search", "--method", method, "--budget", "3", "--count", "8") == 0
        assert saved.load("plan.json", PROCESS).nfe <= 3

    def test_a_grid_for_a_solver(self, tool: Callable[..., int]) -> None:
        assert tool("search", "--method", "boss", "--solver", "adams", "--budget", "4") == 0
        plan = saved.load("plan.json", PROCESS)
        assert isinstance(plan, Plan)
        grid = torch.cat([plan.t, plan.end[None]])
        assert torch.equal(plan.V, adams()(PROCESS, grid).V)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--method", "bosss"], "did you mean 'boss'"),
            (["--method", "olss", "--solver", "ddim"], "no use for the solver"),
            (["--method", "boss", "--solver", "pc"], "no use for the solver"),
            (["--budget", "0"], "no path of 0"),
            (["--out", "taken.json"], "--overwrite"),
        ],
    )
    def test_wrong_options(
        self, tool: Callable[..., int], options: list[str], message: str, capsys: Any
    ) -> None:
        Path("taken.json").write_text("precious")
        assert tool("search", *options) == 2
        assert message in capsys.readouterr().err
        assert [path.name for path in Path().iterdir()] == ["taken.json"]
        assert Path("taken.json").read_text() == "precious"


def test_statistics(tool: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CHECKPOINT", Path().absolute())
    assert tool("statistics", "--count", "64") == 0
    assert len(load(saved.STATISTICS).lam) == 120
    (problem, _) = problems("", Path(), 64, "cpu")
    v3, ddim = (measure([problem], {n: fixed(problem, n, "own", [5])})[0].error for n in ("dpm_v3", "ddim"))
    assert v3 < ddim
    assert tool("statistics") == 2
    assert tool("statistics", "--levels", "7", "--overwrite") == 0
    assert len(load(saved.STATISTICS).lam) == 7


class TestCalls:
    def test_a_picture_and_a_table(self, tool: Callable[..., int], capsys: Any) -> None:
        saved.save("mine.json", adams(3)(PROCESS, uniform(3)), PROCESS)
        options = ["--budgets", "1,4", "--solvers", "ddim,adams", "--grids", "own,power"]
        assert tool("calls", *options, "--plans", "mine.json", "--reference", "20") == 0
        said = json.loads(Path("calls.json").read_text())
        methods = ["ddim on own", "adams on own", "ddim on power", "adams on power"]
        expected = [(name, calls) for name in methods for calls in (1, 4)] + [("mine", 3)]
        assert [(point["method"], point["calls"]) for point in said["points"]] == expected
        assert (said["reference"], said["inputs"]) == (20, 8)
        assert Path("calls.png").read_bytes().startswith(b"\x89PNG")
        assert "| error at calls | 1 | 3 | 4 |" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--solvers", "dddim"], "did you mean 'ddim'"),
            (["--plans", "grid.json"], "holds no plan"),
            (["--solvers", "[]"], "nothing to draw"),
        ],
    )
    def test_wrong_options(
        self, tool: Callable[..., int], options: list[str], message: str, capsys: Any
    ) -> None:
        saved.save("grid.json", uniform(3), PROCESS)
        assert tool("calls", *options) == 2
        assert message in capsys.readouterr().err
        assert [path.name for path in Path().iterdir()] == ["grid.json"]


def test_importing_the_commands_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, diffkit.core.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_missing_matplotlib_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        quality.picture(POINTS, tmp_path / "one.png")
