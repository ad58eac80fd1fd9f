"""skorch, which logs no gradients itself: their norms are recorded in the net's history, as its losses are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import skorch
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback

from autotrainer.integrations.skorch import AutoTrainer
from benchmarks.overhead.library_fits import Gate
from benchmarks.overhead.models import pytorch_model

__all__ = ["build"]


class _Batches(torch.utils.data.IterableDataset[Any]):
    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __iter__(self) -> Any:
        while True:
            yield self._batch


class _Norms(Callback):  # type: ignore[misc]
    def on_grad_computed(self, net: Any, named_parameters: Any, **_: Any) -> None:
        for name, parameter in named_parameters:
            if parameter.grad is not None:
                net.history.record_batch(f"norm of {name}", float(parameter.grad.norm()))


def build(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    """Return the network and the training."""

    class Clock(Callback):  # type: ignore[misc]
        def on_batch_end(self, net: Any, **_: Any) -> None:
            gate.pass_through()
            del net.history[-1]["batches"][:-1]  # which would grow over millions of steps
            if gate.stopped:
                raise KeyboardInterrupt

    torch.manual_seed(0)
    network = pytorch_model(model)
    watched = {"skorch_callback": [AutoTrainer()], "skorch_grad_norm": [_Norms()]}.get(setting, [])
    net = skorch.NeuralNet(
        network,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-4,
        max_epochs=1,
        train_split=None,
        iterator_train__batch_size=None,
        callbacks=[*watched, Clock()],
        verbose=0,
    )
    batch = torch.from_numpy(x), torch.from_numpy(y)

    def fit() -> None:
        torch.set_num_threads(1)  # of this thread
        net.fit(_Batches(batch), None)

    return network, fit
