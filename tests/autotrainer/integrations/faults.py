"""Trainings with one fault each, for comparing a library's callback with a plain loop under `autotrainer.watch`.

```python
@pytest.mark.parametrize("fault", FAULTS)
def test_same_problems(fault: str) -> None:
    expected = plain_problems(fault)
    training = make_training(fault)
    ...  # train training.model for training.epochs by the library, with its callback
    assert problems(callback.monitor) == expected
```

Batches come in the same order everywhere: pass `Training.batches` or `Training.loader()`, and do not shuffle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer import Monitor

__all__ = ["FAULTS", "HEALTHY", "Training", "make_training", "plain_monitor", "plain_problems", "problems"]

ROWS, FEATURES, CLASSES, BATCH = 256, 8, 3, 16


@dataclass
class Training:
    """Everything that a training needs; the same for equal names."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    inputs: Tensor
    targets: Tensor
    epochs: int = 12
    zeroes_gradients: bool = True
    validation: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.validation = self.inputs[-64:], self.targets[-64:]
        self.inputs, self.targets = self.inputs[:-64], self.targets[:-64]

    @property
    def dataset(self) -> TensorDataset:
        """The training rows."""
        return TensorDataset(self.inputs, self.targets)

    @property
    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch."""
        yield from zip(self.inputs.split(BATCH), self.targets.split(BATCH), strict=True)

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The batches of an epoch, as a loader."""
        return DataLoader(self.dataset, batch_size=BATCH)

    def validation_loader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All validation rows in one batch, as a loader."""
        return DataLoader(TensorDataset(*self.validation), batch_size=len(self.validation[0]))


def make_training(name: str) -> Training:
    """Make a training by its name in `FAULTS`, or `HEALTHY`."""
    torch.manual_seed(0)
    return {HEALTHY: _healthy, **FAULTS}[name]()


def plain_monitor(name: str) -> Monitor:
    """Watch a training in a plain loop, as a callback should."""
    training = make_training(name)
    inputs, targets = training.validation
    with autotrainer.watch(
        training.model, training.optimizer, loss_fn=training.loss, epochs=training.epochs, overhead=1.0
    ) as monitor:
        for _ in range(training.epochs):
            for x, y in training.loader():
                if training.zeroes_gradients:
                    training.optimizer.zero_grad()
                training.loss(training.model(x), y).backward()
                training.optimizer.step()
            training.model.eval()
            with torch.no_grad():
                loss = training.loss(training.model(inputs), targets)
            training.model.train()
            monitor.end_epoch(val_loss=loss)
    return monitor


@cache
def plain_problems(name: str) -> dict[str, str]:
    """Return what a plain loop under `autotrainer.watch` shows of a training; see `problems`."""
    return problems(plain_monitor(name))


def problems(monitor: Monitor | None) -> dict[str, str]:
    """Return the severities of the findings by problem, but for those that are mere facts."""
    assert monitor is not None
    return {f.problem: str(f.severity) for f in monitor.findings if f.severity is not autotrainer.Severity.INFO}


def _rows() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(ROWS + 64, FEATURES)
    return inputs, (inputs @ torch.randn(FEATURES, CLASSES)).argmax(dim=1)


def _network(activation: type[nn.Module] = nn.ReLU, depth: int = 1, width: int = 32) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(FEATURES if number == 0 else width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def _training(model: nn.Module, rate: float = 0.1, loss: nn.Module | None = None, epochs: int = 12) -> Training:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return Training(model, optimizer, loss or nn.CrossEntropyLoss(), *_rows(), epochs)


def _healthy() -> Training:
    return _training(_network(), epochs=20)


def _dead_relu() -> Training:
    model = _network()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # type: ignore[union-attr]
    return _training(model)


def _exploding_start() -> Training:
    model = _network(depth=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20.0)
    return _training(model, rate=0.01)


def _unscaled_inputs() -> Training:
    training = _training(_network(nn.Tanh))
    training.inputs = 1000 * training.inputs + 5000
    training.validation = 1000 * training.validation[0] + 5000, training.validation[1]
    return training


def _softmax_before_the_loss() -> Training:
    return _training(nn.Sequential(*_network(), nn.Softmax(dim=1)))


def _zero_weights() -> Training:
    model = _network(depth=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return _training(model)


def _no_zero_grad() -> Training:
    training = _training(_network())
    training.zeroes_gradients = False
    return training


HEALTHY = "healthy"
FAULTS: dict[str, Callable[[], Training]] = {
    "dead_relu": _dead_relu,
    "exploding_start": _exploding_start,
    "rate_too_high": lambda: _training(_network(), rate=30.0),
    "rate_too_low": lambda: _training(_network(), rate=1e-6),
    "sigmoid_stack": lambda: _training(_network(nn.Sigmoid, depth=9)),
    "softmax_before_the_loss": _softmax_before_the_loss,
    "unscaled_inputs": _unscaled_inputs,
    "zero_weights": _zero_weights,
    "no_zero_grad": _no_zero_grad,
}
"""The trainings by name. Without ``zeroes_gradients``, a library that resets gradients itself can't have the fault."""
