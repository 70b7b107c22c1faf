"""Plans on disk: a round trip without loss, and every wrong use in one sentence."""

import json
from pathlib import Path

import pytest
import torch

from diffkit.core import checkpoint
from diffkit.core.grid import uniform
from diffkit.core.joint import Joint
from diffkit.core.plan import Plan, integrate, stack
from diffkit.core.process import VE, VP
from diffkit.core.saved import load, read, save
from diffkit.core.solvers import adams, ddim


@pytest.fixture
def weights(tmp_path: Path):
    def make(name: str, value: float) -> Path:
        network = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(network.weight, value)
        return checkpoint.save(tmp_path / name, network, {"task": "test"}, "# Test\n")

    return make


def run(plan: Plan) -> torch.Tensor:
    return integrate(lambda x, t: torch.tanh(x), torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None], plan)


class TestRoundTrip:
    def test_a_plan(self, tmp_path: Path) -> None:
        plan = adams(3)(VP(), uniform(7, 1.0, 0.1))
        found = load(save(tmp_path / "plan.json", plan, VP()), VP())
        assert isinstance(found, Plan)
        assert torch.equal(run(found), run(plan))
        assert torch.equal(found.end, plan.end)

    def test_a_plan_for_each_sample(self, tmp_path: Path) -> None:
        plan = stack([ddim()(VP(), uniform(3, 1.0, end)) for end in (0.0, 0.1, 0.2, 0.3)], (4,))
        assert torch.equal(run(load(save(tmp_path / "plan.json", plan, VP()), VP())), run(plan))

    def test_leaves(self, tmp_path: Path) -> None:
        joint = Joint({"x": VP(), "adj": VE()})
        plans = {name: ddim()(leaf, uniform(3)) for name, leaf in joint.items()}  # type: ignore[arg-type]
        found = load(save(tmp_path / "plan.json", plans, joint), joint)
        assert list(found) == ["x", "adj"]
        assert torch.equal(found["adj"].V, plans["adj"].V)

    def test_a_grid_and_seeds(self, tmp_path: Path) -> None:
        grid = uniform(7) ** 1.3
        assert torch.equal(load(save(tmp_path / "grid.json", grid, VP()), VP()), grid)
        assert load(save(tmp_path / "seeds.json", [5, 3], VP()), VP()) == [5, 3]

    def test_what_is_said_about_it(self, tmp_path: Path, weights) -> None:
        folder = weights("one", 1.0)
        path = save(
            tmp_path / "plan.json", uniform(3), VP(), checkpoint=folder, method="boss", error={"after": 0.5}
        )
        record = read(path)
        assert (record["method"], record["error"]) == ("boss", {"after": 0.5})
        assert set(record["versions"]) == {"torch", "diffkit-core"}
        assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["plan.json"]


class TestWrongUse:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return save(tmp_path / "plan.json", ddim()(VP(), uniform(3)), VP())

    def change(self, path: Path, **values: object) -> Path:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return path

    @pytest.mark.parametrize("other", [VE(), VP(beta_max=10.0)], ids=["kind", "argument"])
    def test_another_process(self, path: Path, other) -> None:
        with pytest.raises(ValueError, match=r"found on VP\(beta_min=0\.1, beta_max=20\.0\) and not on V"):
            load(path, other)

    def test_other_weights(self, tmp_path: Path, weights) -> None:
        one, two = weights("one", 1.0), weights("two", 2.0)
        path = save(tmp_path / "plan.json", uniform(3), VP(), checkpoint=one)
        assert len(load(path, VP(), checkpoint=one)) == 4
        assert len(load(path, VP())) == 4
        with pytest.raises(ValueError, match="other weights"):
            load(path, VP(), checkpoint=two)

    def test_no_json(self, path: Path) -> None:
        path.write_text("{")
        with pytest.raises(ValueError, match="not the JSON of a search"):
            load(path, VP())
        path.write_text("[1]")
        with pytest.raises(ValueError, match="not the file of a search"):
            load(path, VP())

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_coefficients_that_are_not_finite(self, path: Path, value: float) -> None:
        with pytest.raises(ValueError, match="must be finite"):
            load(self.change(path, B=[[value]] * 3), VP())

    def test_a_later_format(self, path: Path) -> None:
        with pytest.raises(ValueError, match="has format 2 and this version reads 1"):
            load(self.change(path, format=2), VP())

    @pytest.mark.parametrize(
        "values", [{"B": [[1.0]]}, {"U": "one"}, {"kind": "poem"}, {"kind": "plans"}, {"t": [[1.0], []]}]
    )
    def test_tables_that_are_no_plan(self, path: Path, values: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=r"holds no \w+ that can be used"):
            load(self.change(path, **values), VP())

    def test_nothing_half_written(self, path: Path) -> None:
        before = path.read_text()
        with pytest.raises(TypeError):
            save(path, uniform(3), VP(), note=object())
        assert path.read_text() == before
        assert [p.name for p in path.parent.iterdir()] == ["plan.json"]
