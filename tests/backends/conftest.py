"""What tests of both frameworks share: calls with invalid arguments, which change nothing, and a simulated clock."""

from __future__ import annotations

import functools
import hashlib
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.errors import InputError
from autotrainer.monitoring.sampler import Sampler

ROWS = np.random.default_rng(0)
X = ROWS.normal(size=(40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
MAX_MESSAGE = 600
"""Characters of a message: two sentences with the shapes of a few arrays."""

Mistakes = list[str]


class Kit:
    """Valid calls of one framework, whose arguments can be replaced one by one; the objects are shared by all calls."""

    name: str
    steps = 0
    """Training steps taken so far, by whatever."""

    def arguments(self, call: str) -> dict[str, Any]:
        """Return valid arguments of a call, by name."""
        raise NotImplementedError

    def state(self) -> Any:
        """Return what a refused call must not change."""
        raise NotImplementedError

    def call(self, call: str, **replaced: Any) -> Any:
        """Make a call with some of its arguments replaced; what `watch` returns is closed."""
        result = getattr(autotrainer, call)(**{**self.arguments(call), **replaced})
        if isinstance(result, autotrainer.Monitor):
            result.close()
        return result

    def refuses(self, call: str, *words: str, **replaced: Any) -> str:
        """Make a call that must be refused, and return what is wrong with the refusal, or an empty text.

        Args:
            call: Name of the function.
            *words: Alternatives, one of which must be in the message.
            **replaced: Arguments in place of the valid ones.
        """
        before, steps = self.state(), self.steps
        try:
            self.call(call, **replaced)
        except InputError as error:
            problem = _about(str(error), words)
        except Exception as error:  # noqa: BLE001 - what the test reports
            problem = f"raises {type(error).__name__}: {str(error)[:200]}"
        else:
            problem = "is accepted"
        if self.steps != steps:
            problem += f"; {self.steps - steps} training steps were taken"
            self.steps = steps
        if self.state() != before:
            problem += "; the user's objects or the random states have changed"
        return problem


def _about(message: str, words: tuple[str, ...]) -> str:
    if len(message) > MAX_MESSAGE:
        return f"has a message of {len(message)} characters: {message[:200]}…"
    if not any(word in message for word in words):
        return f"has a message without {' or '.join(words)}: {message[:300]}"
    return ""


class TorchKit(Kit):
    """Calls with a PyTorch model."""

    name = "pytorch"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.01)
        self.loss = nn.CrossEntropyLoss()
        self.loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), 8)

    def arguments(self, call: str) -> dict[str, Any]:
        if call == "watch":
            return {"model": self.model, "optimizer": self.optimizer, "loss_fn": self.loss}
        if call == "Loop":
            objects = {"loss_fn": self.loss, "train_loader": self.loader, "epochs": 1, "progress": False}
            return {"model": self.model, "optimizer": self.optimizer, **objects}
        objects = {"model": self.model, "train_data": (X, Y), "loss": self.loss, "optimizer": self.optimizer}
        return objects if call == "check" else {**objects, "epochs": 1, "budget": 1.0, "progress": False}

    def state(self) -> Any:
        digest = hashlib.sha256()
        for value in self.model.state_dict().values():
            digest.update(value.numpy().tobytes())
        modules = [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(vars(m)))
            for m in (*self.model.modules(), self.loss)
        ]
        trained = [(p.requires_grad, p.grad is None) for p in self.model.parameters()]
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        hooks = [len(self.optimizer._optimizer_step_pre_hooks), len(self.optimizer._optimizer_step_post_hooks)]
        state = [
            digest.hexdigest(),
            modules,
            trained,
            groups,
            hooks,
            len(self.optimizer.state),
            len(vars(self.optimizer)),
        ]
        return repr([state, _random_states()])


class KerasKit(Kit):
    """Calls with a compiled Keras model."""

    name = "keras3"

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        layers = keras.layers
        self.model = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8, "relu"), layers.Dropout(0.1), layers.Dense(2, "softmax")]
        )
        self.model.compile("adam", "sparse_categorical_crossentropy")

    def arguments(self, call: str) -> dict[str, Any]:
        if call == "watch":
            return {"model": self.model}
        if call == "Loop":
            return {"model": self.model, "optimizer": None, "loss_fn": None, "train_loader": [(X, Y)], "epochs": 1}
        objects = {"model": self.model, "train_data": (X, Y)}
        return objects if call == "check" else {**objects, "epochs": 1, "budget": 1.0, "progress": False}

    def state(self) -> Any:
        model, optimizer = self.model, self.model.optimizer
        digest = hashlib.sha256()
        for weight in model.weights:
            digest.update(np.asarray(keras.ops.convert_to_numpy(weight)).tobytes())
        layers = [(layer.trainable, layer.built, len(vars(layer))) for layer in model._flatten_layers()]
        compiled = [model.compiled, id(model.loss), id(optimizer), optimizer.built, int(optimizer.iterations)]
        return repr([digest.hexdigest(), layers, compiled, sorted(vars(model)), _random_states()])


def _random_states() -> list[str]:
    states = [random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()]
    return [hashlib.sha256(pickle.dumps(state)).hexdigest() for state in states]


@pytest.fixture(scope="session")
def _kits() -> dict[str, Kit]:
    return {kit.name: kit for kit in (TorchKit(), KerasKit())}


@pytest.fixture
def kits(_kits: dict[str, Kit], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Kit]]:
    """The calls of both frameworks by its name, with training steps counted."""

    def count(*_: Any) -> None:
        _kits["pytorch"].steps += 1

    handle = register_optimizer_step_pre_hook(count)
    monkeypatch.setattr(keras.Model, "fit", _counted(keras.Model.fit, _kits["keras3"]))
    yield _kits
    handle.remove()


def _counted(fit: Callable[..., Any], kit: Kit) -> Callable[..., Any]:
    @functools.wraps(fit)
    def counted(*args: Any, **kwargs: Any) -> Any:
        kit.steps += 1
        return fit(*args, **kwargs)

    return counted


class SimulatedClock:
    """A clock in seconds for monitors: each reading takes 10 µs, and the rest of the time passes on request."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._jump, self._readings = 0.0, 0

    def __call__(self) -> float:
        """Return the present time."""
        self._now += 1e-5
        if self._readings:
            self._readings -= 1
            if not self._readings:
                self._now += self._jump
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def jump(self, seconds: float, *, after: int) -> None:
        """Let the clock jump, forward or back, after so many readings from now."""
        self._jump, self._readings = seconds, after


@pytest.fixture
def simulated_clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    """The clock of all monitors. Import the backend before."""
    clock = SimulatedClock()
    for name, module in list(sys.modules.items()):
        for attribute in ("perf_counter", "process_time"):
            if name.startswith("autotrainer.") and hasattr(module, attribute):
                monkeypatch.setattr(module, attribute, clock)
    monkeypatch.setattr(Sampler.__init__, "__defaults__", (0.01, clock))
    return clock
