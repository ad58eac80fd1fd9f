"""PyTorch Lightning."""

from __future__ import annotations

import logging
from itertools import repeat
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import grad_norm
from numpy.typing import NDArray

from autotrainer.integrations.lightning import AutoTrainer
from benchmarks.overhead.library_fits import STEPS, Gate
from benchmarks.overhead.models import pytorch_model

__all__ = ["build"]


def build(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    """Return the network and the training."""

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network, self.loss = pytorch_model(model), torch.nn.CrossEntropyLoss()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.network.parameters(), 1e-4)

    class LoggingModule(Module):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.log_dict(grad_norm(self.network, norm_type=2))

    class Clock(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            gate.pass_through()
            trainer.should_stop = gate.stopped

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = LoggingModule() if setting == "lightning_grad_norm" else Module()
    callbacks = [*([AutoTrainer()] if setting == "lightning_callback" else []), Clock()]
    batch = torch.from_numpy(x), torch.from_numpy(y)

    def fit() -> None:
        torch.set_num_threads(1)  # of this thread
        trainer = lightning.Trainer(
            max_steps=STEPS,
            accelerator="cpu",
            callbacks=callbacks,
            logger=CSVLogger(folder) if setting == "lightning_grad_norm" else False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, repeat(batch, STEPS))

    return module.network, fit
