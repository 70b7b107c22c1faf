"""Losses, checkpoints, the Task."""

import json
import warnings
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diffkit.core import checkpoint, predict
from diffkit.core.bridge import SBVE
from diffkit.core.mixture import Mixture
from diffkit.core.process import EDM, VP, ZeroTerminal
from diffkit.core.train import Task, denoising_loss
from diffkit.core.train.loss import min_snr, snr, snr_plus_one, uniform_times
from diffkit.core.train.run import EMA


class TestLoss:
    def test_the_exact_denoiser_is_stationary(self) -> None:
        """At E[x0 | x_t] the loss's gradient with respect to a constant shift vanishes."""
        p, mixture = VP(), Mixture.reference()
        x0 = mixture.sample(40_000, torch.Generator().manual_seed(0))
        shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
        t = torch.full((len(x0),), 0.4, dtype=torch.float64)
        noise = torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        loss = denoising_loss(lambda x, t: mixture.denoise(p, x, t) + shift, p, x0, t=t, noise=noise)
        loss.backward()
        assert abs(float(shift.grad)) < 0.01  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("target", "weight"), [(predict.eps, snr), (predict.v, snr_plus_one)], ids=["eps", "v"]
    )
    def test_a_target_is_a_weight_on_the_data_error(self, target: predict.Target, weight: object) -> None:
        """|eps - eps'|^2 = SNR |x0 - x0'|^2, |v - v'|^2 = (1 + SNR) |x0 - x0'|^2 for VP."""
        p = VP()
        x0, noise, guess = torch.randn(3, 6, 4, dtype=torch.float64)
        t = uniform_times(6, like=x0, low=0.1, high=0.9)
        plain = denoising_loss(lambda x, t: guess, p, x0, target=target, t=t, noise=noise)
        weighed = denoising_loss(lambda x, t: guess, p, x0, target=target, t=t, noise=noise, weight=weight)  # type: ignore[arg-type]
        assert float(plain) == pytest.approx(float(weighed), rel=1e-9)

    def test_min_snr_means_the_same_for_every_target(self) -> None:
        p = VP()
        x0, noise, error = torch.randn(3, 6, 4, dtype=torch.float64)
        t = uniform_times(6, like=x0, low=0.1, high=0.9)
        losses = []
        for target in (predict.x0, predict.eps, predict.v):
            x = p.corrupt(x0, t, noise=noise)
            guess = predict.truth(target, p, x0 + error, predict.to_noise(p, x0 + error, x, t), t)
            network = partial(lambda guess, x, t: guess, guess)
            loss = denoising_loss(network, p, x0, target=target, t=t, noise=noise, weight=min_snr())
            losses.append(float(loss))
        assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-8)

    def test_preconditioned_input_has_unit_variance(self) -> None:
        seen: list[Tensor] = []

        def network(x: Tensor, t: Tensor) -> Tensor:
            seen.append(x)
            return x

        denoising_loss(network, EDM(), 0.5 * torch.randn(512, 64), target=predict.Preconditioned(0.5))
        assert float(seen[0].std()) == pytest.approx(1, abs=0.02)

    def test_times_are_stratified(self) -> None:
        t = uniform_times(100, like=torch.zeros(1), low=0.2)
        assert sorted(((t - 0.2) / 0.8 * 100).floor().int().tolist()) == list(range(100))


class Tiny(Task):
    def loss(self, batch: list[Tensor]) -> dict[str, Tensor]:
        return {"loss": denoising_loss(lambda x, t: self.network(x), VP(), batch[0])}


def run(
    tmp_path: Path, steps: int, data: Tensor | None = None, **options: object
) -> tuple[Tiny, lightning.Trainer]:
    torch.manual_seed(0)
    task = Tiny(nn.Linear(2, 2), warmup=2)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[EMA()],
        **options,  # type: ignore[arg-type]
    )
    loader = DataLoader(TensorDataset(torch.randn(64, 2) if data is None else data), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightning's advice for long runs
        trainer.fit(task, loader)
    return task, trainer


class TestTask:
    def test_learning_rate_rises_and_falls_to_zero(self, tmp_path: Path) -> None:
        task, trainer = run(tmp_path, 16)
        assert trainer.global_step == 16
        assert trainer.optimizers[0].param_groups[0]["lr"] < 0.05 * task.learning_rate
        assert trainer.optimizers[0].param_groups[1]["weight_decay"] == 0

    def test_nan_is_an_error_and_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(FloatingPointError, match="loss is nan"):
            run(tmp_path, 4, torch.full((64, 2), float("nan")))


class TestCheckpoint:
    def write(self, folder: Path) -> nn.Module:
        network = nn.Linear(3, 2)
        checkpoint.save(
            folder, network, {"task": "toy", "process": checkpoint.describe(SBVE(scale=0.1))}, "# toy\n"
        )
        return network

    def test_round_trip(self, tmp_path: Path) -> None:
        network = self.write(tmp_path / "c")
        config = checkpoint.read_config(tmp_path / "c", task="toy")
        assert checkpoint.construct(config["process"]) == SBVE(scale=0.1)
        nested = ZeroTerminal(VP(beta_max=12.0))
        assert checkpoint.construct(json.loads(json.dumps(checkpoint.describe(nested)))) == nested
        loaded = checkpoint.load_weights(tmp_path / "c", nn.Linear(3, 2))
        torch.testing.assert_close(loaded.weight, network.weight, atol=1e-3, rtol=1e-3)  # type: ignore[attr-defined]
        assert load_file(tmp_path / "c" / "model.safetensors")["weight"].dtype == torch.float16
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]

    def test_training_starts_from_one(self, tmp_path: Path) -> None:
        network = self.write(tmp_path / "c")
        task = Tiny(nn.Linear(3, 2))
        task.start_from(None, tmp_path)
        assert not torch.allclose(task.network.weight, network.weight, atol=1e-2)  # type: ignore[arg-type]
        task.start_from("c", tmp_path)
        torch.testing.assert_close(task.network.weight, network.weight, atol=1e-3, rtol=1e-3)  # type: ignore[arg-type]
        assert task.network.training
        with pytest.raises(checkpoint.CheckpointError, match="known names are c"):
            task.start_from("d", tmp_path)

    def test_a_failed_save_leaves_what_was_there(self, tmp_path: Path) -> None:
        self.write(tmp_path / "c")
        before = (tmp_path / "c" / "config.json").read_text()
        with pytest.raises(TypeError):
            checkpoint.save(tmp_path / "c", nn.Linear(3, 2), {"bad": object()}, "")
        assert (tmp_path / "c" / "config.json").read_text() == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]

    def test_bad_checkpoints_get_one_sentence(self, tmp_path: Path) -> None:
        self.write(tmp_path / "c")
        with pytest.raises(checkpoint.CheckpointError, match="not for 'other'"):
            checkpoint.read_config(tmp_path / "c", task="other")
        with pytest.raises(checkpoint.CheckpointError, match=r"config\.json cannot be read"):
            checkpoint.read_config(tmp_path / "nothing")
        with pytest.raises(checkpoint.CheckpointError, match="cannot be loaded"):
            checkpoint.load_weights(tmp_path / "c", nn.Linear(4, 2))
        with pytest.raises(checkpoint.CheckpointError, match="known names are c"):
            checkpoint.locate("d", tmp_path)

    def test_a_checkpoint_cannot_name_foreign_code(self) -> None:
        with pytest.raises(checkpoint.CheckpointError, match="not part of diffkit"):
            checkpoint.construct({"class_path": "os.system", "init_args": {}})
        with pytest.raises(checkpoint.CheckpointError, match="cannot be built"):
            checkpoint.construct({"class_path": "diffkit.core.bridge.SBVE", "init_args": {"no": 1}})

    def test_format_is_checked(self, tmp_path: Path) -> None:
        self.write(tmp_path / "c")
        path = tmp_path / "c" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
        with pytest.raises(checkpoint.CheckpointError, match="format 1"):
            checkpoint.read_config(tmp_path / "c")
