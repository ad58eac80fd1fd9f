"""Problems of optimization in real trainings of both frameworks, and their absence in healthy ones."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.records.findings import Finding, Severity

PROBLEMS = (
    "gradient_spike",
    "no_gradient",
    "loss_spike",
    "divergence",
    "learning_rate_too_high",
    "learning_rate_too_low",
    "abnormal_update_ratio",
)

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(960, 8)).astype(np.float32)
TARGETS = (np.sin(2 * INPUTS[:, :1]) + INPUTS[:, 1:2] * INPUTS[:, 2:3] + 0.1 * RANDOM.normal(size=(960, 1))).astype(
    np.float32
)
BATCH = 32

Train = Callable[..., list[Finding]]


def _torch(
    optimizer: tuple[str, float],
    settings: dict[str, Any],
    *,
    epochs: int = 10,
    data: tuple[np.ndarray, np.ndarray] = (INPUTS, TARGETS),
    summed: bool = False,
    detached: bool = False,
    rates: Callable[[float], float] | None = None,
) -> list[Finding]:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, middle, last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 1)
    layers: list[nn.Module] = [first, nn.ReLU(), last] if detached else [first, nn.ReLU(), middle, nn.ReLU(), last]
    model = _Detached(layers) if detached else nn.Sequential(*layers)
    kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    rest = {name: value for name, value in settings.items() if name != "clip"}
    made = kinds[optimizer[0]](model.parameters(), optimizer[1], **rest)
    loss_fn = nn.MSELoss(reduction="sum" if summed else "mean")
    x, y = map(torch.from_numpy, data)
    planned = epochs * (len(x) // BATCH)
    with autotrainer.watch(model, made, loss_fn=loss_fn, epochs=epochs, overhead=1.0, log_dir=None) as monitor:
        for step in range(planned):
            if rates is not None:
                made.param_groups[0]["lr"] = optimizer[1] * rates(step / planned)
            rows = slice(step * BATCH % len(x), step * BATCH % len(x) + BATCH)
            made.zero_grad()
            loss_fn(model(x[rows]), y[rows]).backward()
            if "clip" in settings:
                nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
            made.step()
            if (step + 1) % (len(x) // BATCH) == 0:
                monitor.end_epoch()
    return list(monitor.findings)


class _Detached(nn.Sequential):
    """Detaches its first layer from the loss."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__(OrderedDict(zip(("first", "act", "last"), layers, strict=True)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self[2](self[1](self[0](inputs)).detach()))


def _scheduled(model: Any, rate: Callable[[int], float]) -> Any:
    step = itertools.count()

    def begin(batch: int, logs: Any) -> None:
        model.optimizer.learning_rate = rate(next(step))

    return keras.callbacks.LambdaCallback(on_train_batch_begin=begin)


def _keras(
    optimizer: tuple[str, float],
    settings: dict[str, Any],
    *,
    epochs: int = 10,
    data: tuple[np.ndarray, np.ndarray] = (INPUTS, TARGETS),
    summed: bool = False,
    detached: bool = False,
    rates: Callable[[float], float] | None = None,
) -> list[Finding]:
    name, rate = optimizer
    settings = dict(settings)
    clip = {"global_clipnorm": settings.pop("clip")} if "clip" in settings else {}
    kinds: dict[str, Any] = {
        "sgd": keras.optimizers.SGD,
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
    }
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(32, "relu", kernel_initializer=keras.initializers.GlorotUniform(0), name="first")(
        inputs
    )
    if detached:
        hidden = keras.ops.stop_gradient(hidden)
    else:
        hidden = keras.layers.Dense(32, "relu", kernel_initializer=keras.initializers.GlorotUniform(1))(hidden)
    outputs = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(2))(hidden)
    model = keras.Model(inputs, outputs)
    loss = keras.losses.MeanSquaredError(reduction="sum" if summed else "sum_over_batch_size")
    model.compile(kinds[name](rate, **settings, **clip), loss)
    planned = epochs * (len(data[0]) // BATCH)
    callbacks = [] if rates is None else [_scheduled(model, lambda step: rate * rates(step / planned))]
    with autotrainer.watch(model, overhead=1.0, log_dir=None) as monitor:
        model.fit(*data, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return list(monitor.findings)


@pytest.fixture(params=[_torch, _keras], ids=["pytorch", "keras3"])
def train(request: pytest.FixtureRequest) -> Train:
    return cast(Train, request.param)


def _cases(of_both: tuple[str, ...], of_pytorch: tuple[str, ...]) -> Any:
    """Mark a test with its cases, some of which are those of PyTorch alone."""
    both = [pytest.param(train, case, id=f"{name}-{case}") for case in of_both
            for name, train in (("pytorch", _torch), ("keras3", _keras))]  # fmt: skip
    return pytest.mark.parametrize(
        ("train", "case"), [*both, *(pytest.param(_torch, case, id=f"pytorch-{case}") for case in of_pytorch)]
    )


def _told(findings: list[Finding]) -> dict[str, Severity]:
    return {f.problem: f.severity for f in findings if f.severity is not Severity.INFO}


HEALTHY = {
    "adam": (("adam", 0.01), {}, {}),
    "sgd with momentum": (("sgd", 0.02), {"momentum": 0.9}, {}),
    "strong weight decay": (("adamw", 0.01), {"weight_decay": 0.1}, {}),
    "gradients clipped": (("sgd", 0.05), {"momentum": 0.9, "clip": 1.0}, {}),
    "warm-up from zero, cosine": (
        ("adam", 0.01),
        {},
        {"rates": lambda t: t / 0.2 if t < 0.2 else 0.5 + 0.5 * np.cos(np.pi * (t - 0.2) / 0.8)},
    ),
    "cyclic rate": (("sgd", 0.05), {"momentum": 0.9}, {"rates": lambda t: 0.1 + 0.9 * abs(1 - (8 * t) % 2)}),
}


# those of PyTorch alone are in test_healthy_unusual_keras3.py
@_cases(tuple(HEALTHY)[:2], tuple(HEALTHY)[2:])
def test_healthy_trainings_have_no_optimization_problem(train: Train, case: str) -> None:
    optimizer, settings, more = HEALTHY[case]
    told = _told(train(optimizer, settings, **more))
    assert not set(told) & set(PROBLEMS), told
    assert Severity.ERROR not in told.values(), told


TOO_HIGH = {
    "rate": (("sgd", 3.0), {}, {}),
    "rate of an adaptive optimizer": (("adam", 3.0), {}, {}),
    "momentum": (("sgd", 0.02), {"momentum": 0.999}, {}),
    "summed loss": (("sgd", 0.05), {"momentum": 0.9}, {"summed": True}),
}


@_cases(("rate of an adaptive optimizer", "momentum", "summed loss"), ("rate",))
def test_learning_rate_too_high_is_the_root_cause(train: Train, case: str) -> None:
    optimizer, settings, more = TOO_HIGH[case]
    findings = train(optimizer, settings, **more)
    assert (findings[0].problem, findings[0].severity) == ("learning_rate_too_high", Severity.ERROR), findings
    assert all(f.caused_by for f in findings[1:] if f.severity is Severity.ERROR), [
        (f.problem, f.caused_by) for f in findings
    ]
    if case == "momentum":
        assert "a momentum of 0.999 sums" in findings[0].message
    if case == "summed loss":
        assert "the loss is a sum over 32 samples" in findings[0].message


TOO_LOW = {
    "rate": (("sgd", 1e-5), {"momentum": 0.9}),
    "rate of an adaptive optimizer": (("adam", 1e-6), {}),
    "clipped to next to nothing": (("sgd", 0.05), {"momentum": 0.9, "clip": 1e-4}),
}


@_cases(("rate of an adaptive optimizer", "clipped to next to nothing"), ("rate",))
def test_learning_rate_too_low_is_the_root_cause(train: Train, case: str) -> None:
    findings = train(*TOO_LOW[case])
    assert (findings[0].problem, findings[0].severity) == ("learning_rate_too_low", Severity.ERROR), findings
    assert ("clipped" in findings[0].message) is ("clipped" in case)


def test_excessive_weight_decay(train: Train) -> None:
    findings = train(("adamw", 0.003), {"weight_decay": 30.0})
    told = {f.problem: f for f in findings}
    assert told["abnormal_update_ratio"].severity is Severity.ERROR, findings
    assert "weight decay of 30 is too strong: it removes 9.0%" in told["abnormal_update_ratio"].message
    assert "learning_rate_too_high" not in told


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")  # it is the fault
def test_detached_layers_are_named(train: Train) -> None:
    told = {f.problem: f for f in train(("adam", 0.01), {}, detached=True)}
    assert told["no_gradient"].layers[0].startswith("first")
    assert "receives no gradient in any of the" in told["no_gradient"].message


def test_divergence_during_a_run(train: Train) -> None:
    told = _told(train(("sgd", 0.02), {"momentum": 0.9}, rates=lambda t: 1.0 if t < 0.5 else 20.0))
    assert told.get("divergence") is Severity.ERROR or told.get("learning_rate_too_high") is Severity.ERROR, told


def _with_a_bad_stretch() -> tuple[np.ndarray, np.ndarray]:
    """9,600 rows in one epoch, mostly noise, of which those of steps 240 to 254 are forty times too large."""
    random = np.random.default_rng(1)
    x = random.normal(size=(9600, 8)).astype(np.float32)
    y = (x[:, :1] + 1.2 * random.normal(size=(9600, 1))).astype(np.float32)
    bad = slice(240 * BATCH, 255 * BATCH)
    x[bad] *= 5
    y[bad] *= 8
    return x, y


def test_gradient_and_loss_spikes(train: Train) -> None:
    told = {f.problem: f for f in train(("sgd", 1e-3), {}, epochs=1, data=_with_a_bad_stretch())}
    assert told["gradient_spike"].severity is Severity.WARNING
    assert told["loss_spike"].severity is Severity.WARNING
    assert told["loss_spike"].evidence["spike_step"] == pytest.approx(240, abs=5)
    assert 240 <= told["gradient_spike"].evidence["spike_step"] < 255
