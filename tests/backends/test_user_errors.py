"""Errors of the user's own code reach the user: as they are, or as the cause of an error that says where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

from autotrainer.errors import InputError

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


class UserError(Exception):
    """An error of the user's code."""


def boom(*_: Any, **__: Any) -> Any:
    raise UserError("boom")


class Forward(nn.Module):
    """A model that fails, always or only when it is trained."""

    def __init__(self, always: bool = True) -> None:
        super().__init__()
        self.layer, self.always = nn.Linear(4, 2), always

    def forward(self, x: Any) -> Any:
        return boom() if self.always or (self.training and torch.is_grad_enabled()) else self.layer(x)


class Loss(nn.Module):
    """A loss that fails."""

    def forward(self, outputs: Any, targets: Any) -> Any:
        return boom()


class Loader:
    """Batches that fail from one on."""

    def __init__(self, tensors: bool, good: int) -> None:
        self.tensors, self.good = tensors, good

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.good):
            yield (torch.tensor(X[:8]), torch.tensor(Y[:8])) if self.tensors else (X[:8], Y[:8])
        boom()


class KerasForward(keras.Model):  # type: ignore[misc]
    """A model that fails when it is called or trained."""

    def __init__(self, where: str = "call") -> None:
        super().__init__()
        self.layer, self.where = keras.layers.Dense(2, "softmax"), where

    def call(self, x: Any) -> Any:
        return boom() if self.where == "call" else self.layer(x)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        return boom() if self.where == "step" else super().train_step(*args, **kwargs)


class KerasLoss(keras.losses.Loss):  # type: ignore[misc]
    """A loss that fails."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return boom()


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches that fail from one on."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return (X[:8], Y[:8]) if index < self.good else boom()


class Callback(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that fails at a point of the training."""

    def __init__(self, point: str) -> None:
        super().__init__()
        setattr(self, point, boom)


def keras_model(where: str = "call") -> Any:
    model = KerasForward(where)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def adam(params: Any) -> Any:
    return torch.optim.Adam(params, 0.01)


def of(model: Callable[[], Any]) -> dict[str, Any]:
    return {"model": model, "optimizer": lambda: adam}


METRICS: dict[str, dict[str, Any]] = {
    "metric": {"metric": lambda: boom},
    "metric of one class": {"metric": lambda: boom, "validation_data": lambda: (X[Y == 1], Y[Y == 1])},
}
# (call, arguments)
ROWS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "pytorch": {
        "model": ("fit", of(Forward)),
        "model in training": ("fit", of(lambda: Forward(False))),
        "model builder": ("fit", of(lambda: boom)),
        "loss": ("fit", {"loss": Loss}),
        "loss function": ("fit", {"loss": lambda: boom}),
        "step": ("fit", {"step": lambda: boom}),
        "scheduler": ("fit", {"scheduler": lambda: boom}),
        "optimizer": ("fit", {"optimizer": lambda: boom}),
        "first batch": ("fit", {"train_data": lambda: Loader(True, 0), "validation_data": lambda: (X, Y)}),
        "third batch": ("fit", {"train_data": lambda: Loader(True, 2), "validation_data": lambda: (X, Y)}),
        "validation batch": ("fit", {"validation_data": lambda: Loader(True, 0)}),
        "third validation batch": ("fit", {"validation_data": lambda: Loader(True, 2)}),
        "test batch": ("fit", {"test_data": lambda: Loader(True, 0)}),
        "third test batch": ("fit", {"test_data": lambda: Loader(True, 2)}),
        "check a model": ("check", {"model": Forward, "optimizer": lambda: None}),
        "check batches": ("check", {"train_data": lambda: Loader(True, 0)}),
        "check the third batch": ("check", {"train_data": lambda: Loader(True, 2)}),
        "loop with a scheduler": ("Loop", {"scheduler": lambda: boom}),
        **{name: ("fit", replaced) for name, replaced in METRICS.items()},
    },
    "keras3": {
        "model": ("fit", {"model": keras_model}),
        "model in training": ("fit", {"model": lambda: keras_model("step")}),
        "model builder": ("fit", {"model": lambda: boom}),
        "loss": ("fit", {"loss": KerasLoss}),
        "loss function": ("fit", {"loss": lambda: boom}),
        "optimizer": ("fit", {"optimizer": lambda: boom}),
        "first batch": ("fit", {"train_data": lambda: Sequence(0), "validation_data": lambda: (X, Y)}),
        "third batch": ("fit", {"train_data": lambda: Sequence(2), "validation_data": lambda: (X, Y)}),
        "validation batch": ("fit", {"validation_data": lambda: Sequence(0)}),
        "third validation batch": ("fit", {"validation_data": lambda: Sequence(2)}),
        "test batch": ("fit", {"test_data": lambda: Sequence(0)}),
        "third test batch": ("fit", {"test_data": lambda: Sequence(2)}),
        "callback factory": ("fit", {"fit_args": lambda: {"callbacks": boom}}),
        **{
            f"callback {point}": ("fit", {"fit_args": lambda point=point: {"callbacks": [Callback(point)]}})  # type: ignore[misc]
            for point in ("on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end")
        },
        "check batches": ("check", {"train_data": lambda: Sequence(0)}),
        "check the third batch": ("check", {"train_data": lambda: Sequence(2)}),
        **{name: ("fit", replaced) for name, replaced in METRICS.items()},
    },
}
UNCHANGED = (
    "model in training", "model builder", "loss", "loss function", "step", "scheduler", "optimizer", "first batch",
    "third batch", "validation batch", "third validation batch", "test batch", "third test batch", "check batches",
    "check the third batch", "loop with a scheduler", "callback", "metric",
)  # fmt: skip
"""Beginnings of the names of rows whose errors are raised as they are."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


QUICK = ("first batch", "loss", "optimizer", "callback factory")
"""Rows of Keras that run no whole training."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kit", "row"),
    [
        pytest.param(kit, row, marks=() if kit == "pytorch" or row in QUICK else pytest.mark.slow)
        for kit, rows in ROWS.items()
        for row in rows
    ],
)
def test_errors_of_the_users_code_are_not_hidden(
    kits: Any, kit: str, row: str, record_property: Callable[[str, Any], None]
) -> None:
    record_property("attacks", 1)
    call, makers = ROWS[kit][row]
    replaced = {name: make() for name, make in makers.items()}
    before = kits[kit].state()
    with pytest.raises((InputError, UserError)) as raised:
        kits[kit].call(call, **replaced)
    error = raised.value
    assert kits[kit].state() == before
    if row.startswith(UNCHANGED):
        assert isinstance(error, UserError)
    else:
        assert isinstance(error, InputError)
        assert any(isinstance(cause, UserError) for cause in causes(error))
        assert "boom" in str(error)
