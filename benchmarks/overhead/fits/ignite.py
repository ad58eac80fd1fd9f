"""PyTorch Ignite; its own logging has the norm of each gradient, in TensorBoard."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from numpy.typing import NDArray

from autotrainer.integrations.ignite import AutoTrainer
from benchmarks.overhead.library_fits import STEPS, Gate
from benchmarks.overhead.models import pytorch_model

__all__ = ["build"]


def build(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    """Return the network and the training."""
    torch.manual_seed(0)
    network, loss_fn = pytorch_model(model), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    engine = create_supervised_trainer(network, optimizer, loss_fn)
    if setting == "ignite_handler":
        AutoTrainer().attach(engine, model=network, optimizer=optimizer, loss_fn=loss_fn)
    elif setting == "ignite_grad_norm":
        from ignite.handlers.tensorboard_logger import GradsScalarHandler, TensorboardLogger

        logger = TensorboardLogger(log_dir=str(folder / "ignite"))
        logger.attach(engine, GradsScalarHandler(network), Events.ITERATION_COMPLETED)

    @engine.on(Events.ITERATION_COMPLETED)  # type: ignore[untyped-decorator]
    def clock(engine: Engine) -> None:
        gate.pass_through()
        if gate.stopped:
            engine.terminate()

    batch = torch.from_numpy(x), torch.from_numpy(y)

    def fit() -> None:
        torch.set_num_threads(1)  # of this thread
        engine.run(repeat(batch), max_epochs=1, epoch_length=STEPS)

    return network, fit
