"""Models, losses, optimizers and their companions that do not go together are refused in both frameworks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer

RNG = np.random.default_rng(2)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")

Row = tuple[str, str, dict[str, Callable[[], Any]]]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def frozen() -> nn.Module:
    return net().requires_grad_(False)


class Returns(nn.Module):
    """A model that returns whatever it is made with."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.layer, self.value = nn.Linear(4, 2), value

    def forward(self, x: Any) -> Any:
        return self.value


class NoForward(nn.Module):
    """A model without a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)


class TwoInputs(NoForward):
    """A model with two inputs."""

    def forward(self, x: Any, z: Any) -> Any:
        return self.layer(x) + z


class Locked(NoForward):
    """A model that can't be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Any) -> Any:
        return self.layer(x)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 0.01)


def of_another_model() -> torch.optim.Optimizer:
    return adam(net())


def without_parameters() -> torch.optim.Optimizer:
    optimizer = of_another_model()
    optimizer.param_groups[0]["params"].clear()
    return optimizer


def params(_: Any) -> torch.optim.Optimizer:
    return adam(net())


def scheduler_of_another_optimizer() -> Any:
    return torch.optim.lr_scheduler.StepLR(of_another_model(), 1)


def loader() -> Any:
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), 8)


def keras_net(**options: Any) -> Any:
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, "relu"), layers.Dense(2, "softmax")])
    if options:
        model.compile(**options)
    return model


def compiled(model: Any) -> Any:
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def frozen_keras() -> Any:
    model = keras_net()
    model.trainable = False
    return compiled(model)


class Module(tf.Module):  # type: ignore[misc]
    """A model of TensorFlow alone."""

    def __call__(self, x: Any) -> Any:
        return x


class KerasLocked(keras.Model):  # type: ignore[misc]
    """A model that can't be copied."""

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self.lock, self.layer = lock, keras.layers.Dense(2, "softmax")

    def call(self, x: Any) -> Any:
        return self.layer(x)


class KerasReturns(keras.Model):  # type: ignore[misc]
    """A model that returns whatever it is made with."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.layer, self.value = keras.layers.Dense(2), value

    def call(self, x: Any) -> Any:
        self.layer(x)
        return self.value


def stateful() -> Any:
    return compiled(keras.Sequential([keras.Input((4, 1), batch_size=8), keras.layers.LSTM(2, stateful=True)]))


def built_elsewhere() -> Any:
    optimizer = keras.optimizers.Adam()
    optimizer.build(keras_net().trainable_variables)
    return optimizer


def params_of(model: Callable[[], nn.Module]) -> dict[str, Callable[[], Any]]:
    return {"model": model, "optimizer": lambda: adam}


LOCKED = Locked()
ADAM: dict[str, Callable[[], Any]] = {"optimizer": lambda: lambda p: torch.optim.Adam(p, 0.01)}

ROWS: dict[str, dict[str, Row]] = {
    "pytorch": {
        "frozen model": ("fit", "no parameter to train", {"model": frozen, "repair": lambda: False, **ADAM}),
        "model without parameters": ("fit", "no parameter", {"model": nn.ReLU, **ADAM}),
        "empty model": ("fit", "no parameter", {"model": nn.Sequential, **ADAM}),
        "model class with arguments": ("fit", "model", {"model": lambda: nn.Linear, **ADAM}),
        "builder of nothing": ("fit", "model", {"model": lambda: lambda: None, **ADAM}),
        "builder of a class": ("fit", "model", {"model": lambda: lambda: nn.ReLU, **ADAM}),
        "builder of a Keras model": ("fit", "optimizer", {"model": lambda: keras_net, **ADAM}),
        "builder with an optimizer object": ("fit", "optimizer", {"model": lambda: net}),
        "parameters as a model": ("fit", "model", {"model": lambda: list(net().parameters()), **ADAM}),
        "state as a model": ("fit", "model", {"model": lambda: net().state_dict(), **ADAM}),
        "model without a forward pass": ("fit", "model", {"model": NoForward, **ADAM}),
        "model with two inputs": ("fit", "model", {"model": TwoInputs, **ADAM}),
        "model that returns nothing": ("fit", "model", {"model": Returns, **ADAM}),
        "model that returns a text": ("fit", "model", {"model": lambda: Returns("a"), **ADAM}),
        "model that returns a number": ("fit", "model", {"model": lambda: Returns(3.0), **ADAM}),
        "model that returns no tensors": ("fit", "model", {"model": lambda: Returns({"a": None}), **ADAM}),
        "model that returns nested lists": ("fit", "model", {"model": lambda: Returns([[], [()]]), **ADAM}),
        "model that returns an array": ("fit", "model", {"model": lambda: Returns(np.zeros((2, 2))), **ADAM}),
        "model that returns integers": (
            "fit",
            "model",
            {"model": lambda: Returns({"a": torch.zeros(2, dtype=torch.long)}), **ADAM},
        ),
        "model that can't be copied": ("fit", "copied", {"model": Locked, **ADAM}),
        "optimizer of another model": ("fit", "owns none", {"optimizer": of_another_model, "repair": bool}),
        "optimizer without parameters": ("fit", "owns none", {"optimizer": without_parameters, "repair": bool}),
        "optimizer of the wrong parameters": ("fit", "optimizer", {"optimizer": lambda: params}),
        "callable that returns no optimizer": ("fit", "optimizer", {"optimizer": lambda: lambda p: None}),
        "callable that returns a class": ("fit", "optimizer", {"optimizer": lambda: lambda p: torch.optim.Adam}),
        "callable without arguments": ("fit", "optimizer", {"optimizer": lambda: lambda: adam(net())}),
        "several optimizers": ("fit", "optimizer", {"optimizer": lambda: [of_another_model()]}),
        "a Keras optimizer": ("fit", "optimizer", {"optimizer": keras.optimizers.Adam}),
        "optimizer by name": ("fit", "optimizer", {"optimizer": lambda: "adam"}),
        "loss class": ("fit", "loss is the class", {"loss": lambda: nn.CrossEntropyLoss}),
        "loss by name": ("fit", "loss", {"loss": lambda: "mse"}),
        "list of losses": ("fit", "loss", {"loss": lambda: [nn.MSELoss()]}),
        "loss missing": ("fit", "loss", {"loss": lambda: None}),
        "loss that returns nothing": ("fit", "loss", {"loss": lambda: lambda o, t: None}),
        "loss that returns a number": ("fit", "loss", {"loss": lambda: lambda o, t: 0.5}),
        "loss that returns a text": ("fit", "loss", {"loss": lambda: lambda o, t: "low"}),
        "loss that returns an array": ("fit", "loss", {"loss": lambda: lambda o, t: np.zeros(3)}),
        "loss that returns a list": ("fit", "loss", {"loss": lambda: lambda o, t: [o.sum()]}),
        "loss that returns a tuple": ("fit", "loss", {"loss": lambda: lambda o, t: (o.sum(), t)}),
        "loss without a gradient": ("fit", "loss", {"loss": lambda: lambda o, t: o.detach().sum()}),
        "loss of integers": ("fit", "loss", {"loss": lambda: lambda o, t: t.sum()}),
        "weights for a loss that takes none": (
            "fit",
            "weights",
            {"loss": lambda: lambda o, t: o.sum(), "train_data": lambda: (X, Y, np.ones(24))},
        ),
        "step that is no function": ("fit", "step", {"step": lambda: 3}),
        "step that returns nothing": ("fit", "step", {"step": lambda: lambda m, b: None}),
        "step that returns a text": ("fit", "step", {"step": lambda: lambda m, b: "low"}),
        "step that returns a pair": ("fit", "step", {"step": lambda: lambda m, b: (m(b[0]).sum(), b)}),
        "step without a gradient": ("fit", "loss", {"step": lambda: lambda m, b: m(b[0]).sum().detach()}),
        "scheduler object": ("fit", "scheduler", {"scheduler": scheduler_of_another_optimizer}),
        "scheduler that is nothing": ("fit", "scheduler", {"scheduler": lambda: lambda o: None}),
        "scheduler that is a number": ("fit", "scheduler", {"scheduler": lambda: lambda o: 0.1}),
        "arguments of Keras": ("fit", "fit_args", {"fit_args": lambda: {"callbacks": []}}),
        "unknown arguments": ("fit", "fit_args", {"fit_args": lambda: {"nonsense": 1}}),
        "metric that does not fit": ("fit", "metric", {"metric": lambda: "r22"}),
        "resume without a folder": ("fit", "log_dir", {"resume": lambda: True}),
        "unknown layer to keep": ("fit", "keep", {"keep": lambda: "hidden"}),
        "an optimizer for keep": ("fit", "keep", {"keep": lambda: [of_another_model()]}),
        "watch without an optimizer": ("watch", "optimizer", {"optimizer": lambda: None}),
        "watch no optimizers": ("watch", "optimizer", {"optimizer": lambda: []}),
        "watch an optimizer class": ("watch", "optimizer", {"optimizer": lambda: torch.optim.Adam}),
        "watch a callable": ("watch", "optimizer", {"optimizer": lambda: adam}),
        "watch another optimizer": ("watch", "owns none", {"optimizer": of_another_model}),
        "watch one of two optimizers": ("watch", "owns none", {"optimizer": lambda: (of_another_model(),) * 2}),
        "watch without parameters": ("watch", "owns none", {"optimizer": without_parameters}),
        "watch a Keras optimizer": ("watch", "optimizer", {"optimizer": keras.optimizers.Adam}),
        "watch a scheduler": ("watch", "optimizer", {"optimizer": scheduler_of_another_optimizer}),
        "watch a model class": ("watch", "model", {"model": lambda: nn.ReLU}),
        "watch a builder": ("watch", "model", {"model": lambda: net}),
        "watch a loss class": ("watch", "loss_fn is the class", {"loss_fn": lambda: nn.MSELoss}),
        "watch a loss by name": ("watch", "loss_fn", {"loss_fn": lambda: "mse"}),
        "watch several losses": ("watch", "loss_fn", {"loss_fn": lambda: [nn.MSELoss()]}),
        "check a builder": ("check", "model", {"model": lambda: net}),
        "check a model class": ("check", "model", {"model": lambda: nn.ReLU}),
        "check another optimizer": ("check", "owns none", {"optimizer": of_another_model}),
        "check an optimizer class": ("check", "optimizer", {"optimizer": lambda: torch.optim.Adam}),
        "check a loss class": ("check", "loss is the class", {"loss": lambda: nn.MSELoss}),
        "check two inputs": ("check", "model", {"model": TwoInputs, "optimizer": lambda: None}),
        "check no forward pass": ("check", "model", {"model": NoForward, "optimizer": lambda: None}),
        "loop over a class": ("Loop", "train_loader", {"train_loader": lambda: DataLoader}),
        "loop over an iterator": ("Loop", "train_loader", {"train_loader": lambda: iter(loader())}),
        "loop over nothing": ("Loop", "train_loader", {"train_loader": lambda: []}),
        "loop over an empty loader": (
            "Loop",
            "train_loader",
            {"train_loader": lambda: DataLoader(TensorDataset(torch.tensor(X)), 64, drop_last=True)},
        ),
        "loop over (x, y)": ("Loop", "train_loader", {"train_loader": lambda: {"x": X, "y": Y}}),
        "loop without an optimizer": ("Loop", "optimizer", {"optimizer": lambda: None}),
        "loop with a callable": ("Loop", "optimizer", {"optimizer": lambda: adam}),
        "loop with an optimizer class": ("Loop", "optimizer", {"optimizer": lambda: torch.optim.Adam}),
        "loop with another optimizer": ("Loop", "owns none", {"optimizer": of_another_model}),
        "loop with several optimizers": ("Loop", "optimizer", {"optimizer": lambda: [of_another_model()]}),
        "loop with a loss class": ("Loop", "loss_fn is the class", {"loss_fn": lambda: nn.MSELoss}),
        "loop without a loss": ("Loop", "loss_fn", {"loss_fn": lambda: None}),
        "loop with a scheduler of another optimizer": (
            "Loop",
            "scheduler",
            {"scheduler": scheduler_of_another_optimizer},
        ),
        "loop with a scheduler class": ("Loop", "scheduler", {"scheduler": lambda: torch.optim.lr_scheduler.StepLR}),
        "loop with no scheduler": ("Loop", "scheduler", {"scheduler": lambda: lambda o: None}),
        "loop with a function of two": ("Loop", "scheduler", {"scheduler": lambda: lambda o, epochs: None}),
        "metric of one argument": ("fit", "metric", {"metric": lambda: lambda y: 1.0}),
        "metric of three arguments": ("fit", "metric", {"metric": lambda: lambda y, p, w: 1.0}),
        "step of one argument": ("fit", "step", {"step": lambda: lambda batch: batch}),
        "step of three arguments": ("fit", "step", {"step": lambda: lambda model, x, y: model}),
        "scheduler class": ("fit", "scheduler", {"scheduler": lambda: torch.optim.lr_scheduler.StepLR}),
        "loop with a scaler class": ("Loop", "scaler", {"scaler": lambda: torch.amp.GradScaler}),
        "loop with a number as a scaler": ("Loop", "scaler", {"scaler": lambda: 5}),
        "loop with an optimizer as a scaler": ("Loop", "scaler", {"scaler": of_another_model}),
        "loop with a builder": ("Loop", "model", {"model": lambda: net}),
        "loop with a model that can't be copied": (
            "Loop",
            "copied",
            {"model": lambda: LOCKED, "optimizer": lambda: adam(LOCKED)},
        ),
        "loop with a Keras model": ("Loop", "Loop takes PyTorch", {"model": keras_net}),
    },
    "keras3": {
        "uncompiled model": ("fit", "not compiled", {"model": keras_net}),
        "uncompiled model with a loss": ("fit", "optimizer", {"model": keras_net, "loss": lambda: "mse"}),
        "uncompiled model with an optimizer": ("fit", "loss", {"model": keras_net, "optimizer": lambda: "sgd"}),
        "model without a loss": ("fit", "loss", {"model": lambda: keras_net(optimizer="adam")}),
        "frozen model": ("fit", "trainable", {"model": frozen_keras, "repair": lambda: False}),
        "model without weights": (
            "fit",
            "trainable",
            {"model": lambda: compiled(keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]))},
        ),
        "empty model": ("fit", "model", {"model": lambda: compiled(keras.Sequential())}),
        "model class": ("fit", "model", {"model": lambda: keras.Sequential}),
        "model class with arguments": ("fit", "model", {"model": lambda: KerasLocked}),
        "a layer": ("fit", "model", {"model": lambda: keras.layers.Dense(2)}),
        "a module of TensorFlow": ("fit", "model", {"model": Module}),
        "a function of TensorFlow": ("fit", "model", {"model": lambda: tf.function(lambda x: x)}),
        "a PyTorch model": ("fit", "optimizer|loss", {"model": net}),
        "weights as a model": ("fit", "model", {"model": lambda: keras_net().get_weights()}),
        "configuration as a model": ("fit", "model", {"model": lambda: keras_net().get_config()}),
        "builder of nothing": ("fit", "model", {"model": lambda: lambda: None}),
        "builder of a layer": ("fit", "model", {"model": lambda: lambda: keras.layers.Dense(2)}),
        "builder of a class": ("fit", "model", {"model": lambda: lambda: keras.Model}),
        "model that can't be copied": ("fit", "copied", {"model": lambda: compiled(KerasLocked(threading.Lock()))}),
        "model that returns nothing": ("fit", "model|train_data", {"model": lambda: compiled(KerasReturns())}),
        "model that returns a text": ("fit", "model|train_data", {"model": lambda: compiled(KerasReturns("a"))}),
        "model that returns an empty list": ("fit", "model|train_data", {"model": lambda: compiled(KerasReturns([]))}),
        "stateful model": ("fit", "stateful", {"model": stateful}),
        "loss class": ("fit", "loss is the class", {"loss": lambda: keras.losses.MeanSquaredError}),
        "unknown loss": ("fit", "loss", {"loss": lambda: "means_squared_error"}),
        "list of unknown losses": ("fit", "loss", {"loss": lambda: ["mse", "nonsense"]}),
        "list of no losses": ("fit", "loss", {"loss": lambda: [None, None]}),
        "dict of no losses": ("fit", "loss", {"loss": lambda: {"a": None}}),
        "dict of unknown losses": ("fit", "loss", {"loss": lambda: {"a": 3}}),
        "configuration of no loss": ("fit", "loss", {"loss": lambda: {"class_name": "Nonsense", "config": {}}}),
        "an optimizer as a loss": ("fit", "loss", {"loss": keras.optimizers.Adam}),
        "a metric name as a loss": ("fit", "loss", {"loss": lambda: "accuracy"}),
        "unknown optimizer": ("fit", "optimizer", {"optimizer": lambda: "adamm"}),
        "a PyTorch optimizer": ("fit", "optimizer", {"optimizer": of_another_model}),
        "a PyTorch optimizer class": ("fit", "optimizer", {"optimizer": lambda: torch.optim.Adam}),
        "a loss as an optimizer": ("fit", "optimizer", {"optimizer": keras.losses.MeanSquaredError}),
        "configuration of no optimizer": ("fit", "optimizer", {"optimizer": lambda: {"class_name": "Nonsense"}}),
        "callable that returns no optimizer": ("fit", "optimizer", {"optimizer": lambda: lambda: None}),
        "callable with arguments": ("fit", "optimizer", {"optimizer": lambda: lambda p: keras.optimizers.Adam()}),
        "schedule as an optimizer": (
            "fit",
            "optimizer",
            {"optimizer": lambda: keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9)},
        ),
        "metric of one argument": ("fit", "metric", {"metric": lambda: lambda y: 1.0}),
        "metric of three arguments": ("fit", "metric", {"metric": lambda: lambda y, p, w: 1.0}),
        "negative weights": (
            "fit",
            "sample_weight",
            {"fit_args": lambda: {"sample_weight": -np.ones(40)}, "validation_data": lambda: (X, Y)},
        ),
        "weights of zero": (
            "fit",
            "sample_weight",
            {"fit_args": lambda: {"sample_weight": np.zeros(40)}, "validation_data": lambda: (X, Y)},
        ),
        "step of PyTorch": ("fit", "step", {"step": lambda: lambda m, b: None}),
        "scheduler of PyTorch": ("fit", "scheduler", {"scheduler": lambda: lambda o: None}),
        "resume without a folder": ("fit", "log_dir", {"resume": lambda: True}),
        "unknown layer to keep": ("fit", "keep", {"keep": lambda: "hidden"}),
        "metric that does not fit": ("fit", "metric|loss", {"metric": lambda: "r2", "loss": lambda: "nonsense"}),
        **{
            f"fit_args with {name}={value!r}": ("fit", name, {"fit_args": lambda n=name, v=value: {n: v}})  # type: ignore[misc]
            for name, values in {
                "x": [X],
                "y": [None],
                "epochs": [3],
                "batch_size": [8],
                "validation_data": [(X, Y)],
                "validation_split": [0.2],
                "initial_epoch": [1],
                "validation_freq": [2],
                "self": [None],
                "nonsense": [1],
                "callback": [[]],
                "": [1],
                "verbose": [3, -1, "loud", None, 1.5, [], {}],
                "shuffle": ["batch", None, 2, [], 0.5],
                "steps_per_epoch": [0, -1, 1.5, "3", True, [3], float("nan")],
                "validation_steps": [0, -2, 2.5, "all", False, object],
                "validation_batch_size": [0, -1, "8", 1.5],
                "sample_weight": [[1.0], np.ones(3), "ones", 3, -np.ones(24), np.ones((24, 2)), np.full(24, np.nan)],
                "class_weight": [
                    [1, 2],
                    "balanced",
                    3,
                    {"a": 1},
                    {0: "1"},
                    {0: -1},
                    {0: float("nan")},
                    {-1: 1},
                    {0.5: 1},
                    {0: None},
                    {True: 1},
                    {0: float("inf")},
                    {None: 1},
                ],
                "callbacks": [3, "early", [3], [None], object(), {"a": 1}, [keras.callbacks.Callback], [[]]],
            }.items()
            for value in values
        },
        "watch a builder": ("watch", "model", {"model": lambda: keras_net}),
        "watch a model class": ("watch", "model", {"model": lambda: keras.Model}),
        "watch a layer": ("watch", "model", {"model": lambda: keras.layers.Dense(2)}),
        "watch a module of TensorFlow": ("watch", "model", {"model": Module}),
        "watch another optimizer": ("watch", "optimizer", {"optimizer": keras.optimizers.Adam}),
        "watch an optimizer by name": ("watch", "optimizer", {"optimizer": lambda: "adam"}),
        "watch another loss": ("watch", "loss", {"loss_fn": keras.losses.MeanSquaredError}),
        "watch another loss by name": ("watch", "loss", {"loss_fn": lambda: "mse"}),
        "watch a loss class": ("watch", "loss", {"loss_fn": lambda: keras.losses.MeanSquaredError}),
        "check a builder": ("check", "model", {"model": lambda: keras_net}),
        "check a layer": ("check", "model", {"model": lambda: keras.layers.Dense(2)}),
        "check a loss class": ("check", "loss is the class", {"loss": lambda: keras.losses.MeanSquaredError}),
        "check an unknown loss": ("check", "loss", {"loss": lambda: "nonsense"}),
        "check an unknown optimizer": ("check", "optimizer", {"optimizer": lambda: "nonsense"}),
        "check a PyTorch optimizer": ("check", "optimizer", {"optimizer": of_another_model}),
        "loop": ("Loop", "Loop takes PyTorch", {}),
    },
}


@pytest.mark.parametrize("kit", ["pytorch", "keras3"])
@pytest.mark.parametrize("part", range(4))
def test_objects_that_do_not_go_together_are_refused(
    kits: Any, kit: str, part: int, record_property: Callable[[str, Any], None]
) -> None:
    rows = list(ROWS[kit].items())[part::4]
    mistakes: list[str] = []
    for label, (call, words, makers) in rows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            replaced = {name: make() for name, make in makers.items()}
            problem = kits[kit].refuses(call, *words.split("|"), **replaced)
        if problem:
            mistakes.append(f"{label}: {call}() {problem}")
    record_property("attacks", len(rows))
    assert not mistakes, "\n" + "\n".join(mistakes)


@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_refused_watch_leaves_the_previous_monitor_open(
    framework: str, kits: dict[str, Any], tmp_path: Path, record_property: Any
) -> None:
    kit = kits[framework]
    foreign = {"pytorch": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1), "keras3": keras.optimizers.SGD()}
    with autotrainer.watch(**kit.arguments("watch")) as monitor:
        for bad in ({"on_finding": 5}, {"optimizer": foreign[framework]}, {"loss_fn": 5}):
            assert not kit.refuses("watch", *bad, "owns none", "this loss", log_dir=tmp_path, **bad)
        assert not monitor.closed
    assert not list(tmp_path.iterdir())
    record_property("attacks", 3)
