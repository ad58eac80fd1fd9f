"""Plain `watch` on models and optimizers that Lightning and Fabric hand out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import autotrainer
from autotrainer.errors import InputError
from tests.autotrainer.integrations.faults import HEALTHY, make_training

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]  # of the libraries


def test_fabric() -> None:
    fabric_module = pytest.importorskip("lightning.fabric")
    training = make_training(HEALTHY)
    fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
    with pytest.raises(InputError, match=r"Fabric\.setup"):
        autotrainer.watch(fabric)
    model, optimizer = fabric.setup(training.model, training.optimizer)
    losses = []
    with autotrainer.watch(model, optimizer, overhead=1.0) as monitor:
        for x, y in training.batches:
            optimizer.zero_grad()
            loss = training.loss(model(x), y)
            fabric.backward(loss)
            optimizer.step()
            losses.append(loss.item())
    assert [layer.name for layer in monitor.context.layers] == ["0", "1", "2"]
    assert np.allclose(monitor.history.losses[1], losses)
    assert np.isfinite(monitor.history.scalar("grad_norm")).all()


def test_the_optimizers_of_a_lightning_module() -> None:
    lightning: Any = pytest.importorskip("lightning.pytorch")
    training, monitors = make_training(HEALTHY), []

    class Manual(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.model = training.model

        def on_train_start(self) -> None:
            monitors.append(autotrainer.watch(self.model, self.optimizers(), overhead=1.0))

        def training_step(self, batch: Any, index: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(training.loss(self.model(batch[0]), batch[1]))
            optimizer.step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return training.optimizer

    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Manual(), training.loader())
    [monitor] = monitors
    monitor.close()
    assert monitor.history.step == 15
    assert len(monitor.history.losses[0]) == 16
