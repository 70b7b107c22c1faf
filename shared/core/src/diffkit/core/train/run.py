"""The ``train`` verb: a Task and a data module from one configuration, by LightningCLI.

``--config file.yaml`` and dotted overrides reach everything (``--trainer.devices 8
--trainer.num_nodes 4 --trainer.strategy fsdp``, ``--model.process.init_args.scale 0.4``);
``--print_config`` shows it all, and the run folder keeps the exact ``config.yaml`` that made it.
"""

import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.cli import LightningCLI

from diffkit.core.train.task import Task

Writer: TypeAlias = Callable[[Any, Path, Trainer, float], None]


class Export(Callback):
    """Writes the network as a checkpoint folder at every validation and when training ends.

    It stands before :class:`EMA` in the list of callbacks, so that at the end of a validation the averaged
    weights are still in place.

    Args:
        write: ``(task, folder, trainer, seconds)``, seconds of training in this process; the domain's own.
    """

    def __init__(self, write: Writer):
        self.write = write
        self.start = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.monotonic()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._export(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._export(trainer, pl_module)

    def _export(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            assert isinstance(module, Task)
            folder = Path(trainer.default_root_dir) / "checkpoint"
            self.write(module, folder, trainer, time.monotonic() - self.start)


class EMA(WeightAveraging):
    """Exponential moving average of the weights with a warm-up: decay min(decay, (1 + n)/(10 + n)).

    Validation and exported checkpoints use the average.
    """

    def __init__(self, decay: float = 0.999):
        super().__init__(
            use_buffers=True,
            avg_fn=lambda average, value, n: value.lerp(average, min(decay, float((1 + n) / (10 + n)))),
        )


def card(title: str, trainer: Trainer, seconds: float, *, command: str, items: str, data: str) -> str:
    """``card.md`` of a run with its facts: ``items`` are those of a batch, ``data`` a sentence."""
    metrics = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items() if "valid" in k}
    return (
        f"# {title}\n\nTrained with `{command} train` for {trainer.global_step} steps of {items}, "
        f"{seconds / 3600:.2f} h in the last process, on {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}.\n\nData: {data}\n\nValidation: {metrics}\n"
    )


def train(
    task: type[Task],
    data: type[LightningDataModule],
    args: Sequence[str],
    *,
    write: Writer,
) -> Trainer:
    """Parse ``args``, train, and export; ``--resume FILE.ckpt`` (or ``last``) goes on with a run."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what lightning calls
    torch.set_flush_denormal(True)  # denormal gradients make a CPU step ten times slower

    class CLI(LightningCLI):
        def add_arguments_to_parser(self, parser):  # type: ignore[no-untyped-def]
            parser.add_argument("--resume", type=str | None, default=None, help="a .ckpt file, or 'last'")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        warnings.filterwarnings("ignore", message="LightningCLI.s args parameter")
        cli = CLI(
            task,
            data,
            run=False,
            args=list(args),
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": []},
            parser_kwargs={"exit_on_error": False},
        )
        cli.trainer.callbacks.insert(0, Export(write))  # pyright: ignore[reportAttributeAccessIssue]
        resume = cli.config.resume
        if resume == "last":
            found = sorted(Path(cli.trainer.default_root_dir).rglob("*.ckpt"), key=os.path.getmtime)
            if not found:
                raise ValueError(f"no .ckpt to resume in {cli.trainer.default_root_dir}.")
            resume = str(found[-1])
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resume)
    return cli.trainer
