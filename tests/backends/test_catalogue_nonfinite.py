"""`nonfinite` in real trainings: the first non-finite tensor, its layer, and the operation that caused it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.backends.keras3.training import nonfinite_operations as of_keras
from autotrainer.backends.pytorch.training import nonfinite_operations as of_torch
from autotrainer.records.findings import Finding, Severity

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(400, 6)).astype(np.float32)
LABELS = (INPUTS[:, 0] > 0).astype(np.int64)
VALUES = 2 * INPUTS[:, :1]


class _Model(nn.Module):
    """Two layers with an operation between them."""

    def __init__(self, between: str, units: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, units)
        self.dropout = nn.Dropout(0.2)
        self.between = between

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.a(inputs)
        if self.between == "log":
            hidden = torch.log(torch.relu(hidden))
        elif self.between == "distance":
            hidden = hidden + torch.sqrt(torch.square(hidden - hidden))
        elif self.between == "half":
            hidden = 1e-6 * (3e5 * hidden).half().float()
        elif self.between == "dropout":
            hidden = self.dropout(hidden)
        return self.b(hidden)


class _TorchLoss(nn.Module):
    """Cross-entropy of probabilities, numerically unsafe."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -torch.log(torch.softmax(2000 * outputs, 1)[torch.arange(len(targets)), targets]).mean()


def _torch(between: str, rate: float, loss: str = "usual") -> dict[str, Any]:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Model(between, 1 if loss == "squared" else 2)
    losses = {"usual": nn.CrossEntropyLoss, "careless": _TorchLoss, "squared": nn.MSELoss}
    return {"model": model, "loss": losses[loss](), "optimizer": torch.optim.SGD(model.parameters(), rate)}


def _careless(targets: Any, outputs: Any) -> Any:
    """Return the cross-entropy of probabilities, numerically unsafe."""
    known = keras.ops.cast(keras.ops.reshape(targets, (-1, 1)), "int32")
    return -keras.ops.log(keras.ops.take_along_axis(keras.ops.softmax(2000 * outputs), known, axis=1))


def _keras(between: str, rate: float, loss: str = "usual") -> dict[str, Any]:
    ops = keras.ops
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, name="a", kernel_initializer=keras.initializers.GlorotUniform(0))(inputs)
    if between == "log":
        hidden = ops.log(ops.relu(hidden))
    elif between == "distance":
        hidden = hidden + ops.sqrt(ops.square(hidden - hidden))
    elif between == "half":
        hidden = 1e-6 * ops.cast(ops.cast(3e5 * hidden, "float16"), "float32")
    elif between == "dropout":
        hidden = keras.layers.Dropout(0.2, seed=0)(hidden)
    units = 1 if loss == "squared" else 2
    outputs = keras.layers.Dense(units, name="b", kernel_initializer=keras.initializers.GlorotUniform(1))(hidden)
    losses = {
        "usual": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "careless": _careless,
        "squared": keras.losses.MeanSquaredError(),
    }
    return {
        "model": keras.Model(inputs, outputs),
        "loss": losses[loss],
        "optimizer": keras.optimizers.SGD(rate),
    }


@pytest.fixture(params=[_torch, _keras], ids=["pytorch", "keras3"])
def make(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    return request.param


def _fit(given: dict[str, Any], targets: Any, inputs: Any = INPUTS, **options: Any) -> tuple[Any, Finding | None]:
    options = {"epochs": 4, "repair": False, "progress": False} | options
    result = autotrainer.fit(given.pop("model"), (inputs, targets), **given, **options)
    return result, next((f for f in result.findings if f.problem == "nonfinite"), None)


@pytest.mark.parametrize(
    ("between", "loss", "layers", "told"),
    [
        (
            "log",
            "usual",
            ("a",),
            "first appear in values computed after layer a in step 0, caused by the logarithm of 0.",
        ),
        ("distance", "usual", ("a",), "in step 0, caused by a division by 0 in the backward pass, at a root of 0."),
        ("half", "usual", ("a",), "in half precision (largest number 65504)"),
        ("nothing", "careless", (), "first appear in the loss in step 0, caused by the logarithm of 0."),
    ],
)
def test_message_names_the_operation(
    make: Callable[..., dict[str, Any]], between: str, loss: str, layers: tuple[str, ...], told: str
) -> None:
    _, found = _fit(make(between, 0.01, loss), LABELS)
    assert found is not None
    assert (found.severity, found.layers) == (Severity.ERROR, layers)
    assert told in found.message, found.message


def test_search_replays_the_same_training_up_to_a_late_step(make: Callable[..., dict[str, Any]]) -> None:
    result, found = _fit(make("dropout", 0.3, "squared"), VALUES, epochs=40)
    assert found is not None
    assert found.evidence["first_bad_step"] == found.evidence["first_step"]
    assert found.evidence["first_bad_step"] > 5, "an early step would not show whether the same is drawn again"
    assert "overflow" in found.message
    assert max(abs(found.evidence["first_bad_lowest"]), abs(found.evidence["first_bad_highest"])) > 1e18
    assert 1 < result.cost <= 1.25


def test_search_stays_within_the_budget(make: Callable[..., dict[str, Any]]) -> None:
    result, found = _fit(make("log", 0.01), LABELS, budget=0.3, repair=True)
    assert found is not None
    assert "first_bad_step" in found.evidence
    assert 0.25 < result.cost <= 0.3
    result, found = _fit(make("log", 0.01), LABELS, budget=0.25, repair=True)
    assert found is not None
    assert found.message == "The outputs of layer b have been NaN or infinite since step 0.", (
        "nothing is left of the budget"
    )
    assert result.cost == 0.25


def test_nonfinite_inputs_are_found_among_many_rows(make: Callable[..., dict[str, Any]]) -> None:
    inputs = INPUTS.copy()
    inputs[::7, 2] = np.nan
    _, found = _fit(make("nothing", 0.01), LABELS, inputs)
    assert found is not None
    assert found.message == "NaN or infinite values first appear in the inputs in step 0."


def test_weights_nonfinite_from_the_start(make: Callable[..., dict[str, Any]]) -> None:
    given = make("nothing", 0.01)
    model = given["model"]
    if isinstance(model, nn.Module):
        model.b.bias.data[1] = float("nan")
    else:
        model.get_layer("b").bias.assign(np.float32([0.0, np.nan]))
    _, found = _fit(given, LABELS)
    assert found is not None
    assert found.layers == ("b",)
    assert found.message == "NaN or infinite values first appear in the weights of layer b in step 0."


def test_healthy_training_has_no_extra_cost(make: Callable[..., dict[str, Any]]) -> None:
    result, found = _fit(make("dropout", 0.1), LABELS)
    assert found is None
    assert result.cost == 1.0


# -- watched, nothing is replayed -------------------------------------------------------------------------------------


def _watch_torch(between: str, rate: float, loss: str, targets: Any) -> Finding | None:
    given = _torch(between, rate, loss)
    model, optimizer, judge = given["model"], given["optimizer"], given["loss"]
    with autotrainer.watch(model, optimizer, loss_fn=judge) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            judge(model(torch.from_numpy(INPUTS)), torch.from_numpy(targets)).backward()
            optimizer.step()
    return next((f for f in monitor.findings if f.problem == "nonfinite"), None)


def _watch_keras(between: str, rate: float, loss: str, targets: Any) -> Finding | None:
    given = _keras(between, rate, loss)
    given["model"].compile(given["optimizer"], given["loss"])
    with autotrainer.watch(given["model"]) as monitor:
        given["model"].fit(INPUTS, targets, batch_size=400, epochs=3, verbose=0)
    return next((f for f in monitor.findings if f.problem == "nonfinite"), None)


@pytest.mark.parametrize("watch", [_watch_torch, _watch_keras], ids=["pytorch", "keras3"])
@pytest.mark.parametrize(
    ("between", "loss", "told"),
    [
        ("log", "usual", "The outputs of layer b have been NaN or infinite since step 0."),
        (
            "distance",
            "usual",
            "The gradients of layer a have been NaN or infinite since step 0, although the loss is finite.",
        ),
        ("nothing", "careless", "The loss has been NaN or infinite since step 0: outputs are as low as -"),
        ("dropout", "usual", None),
    ],
)
def test_watch_reports_the_nonfinite_tensor(
    watch: Callable[..., Finding | None], between: str, loss: str, told: str | None
) -> None:
    found = watch(between, 0.01, loss, LABELS)
    assert (found is None) is (told is None)
    assert found is None or found.message.startswith(str(told))


# -- operations ------------------------------------------------------------------------------------------------------


def test_attention_masks_are_not_reported_in_pytorch() -> None:
    scores = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    with of_torch.NonfiniteOperations() as made:
        weights = scores.masked_fill(mask, float("-inf")).softmax(-1)
        weights.sum().backward()
    assert not made.first
    with of_torch.NonfiniteOperations() as made:
        scores.masked_fill(mask | True, float("-inf")).softmax(-1)
    assert "forward" in made.first
    assert made.first["forward"].kind == "softmax"


def test_in_place_operations_report_their_inputs_in_pytorch() -> None:
    values = torch.tensor([0.0, 4.0])
    with torch.enable_grad(), of_torch.NonfiniteOperations() as made:
        values.log_()
    assert made.first["forward"] == of_torch.Operation("logarithm", 0.0, 4.0, 0.0)


@pytest.mark.parametrize(
    ("run", "kind", "lowest"),
    [
        (lambda ops, x: ops.log(x), "logarithm", -1.0),
        (lambda ops, x: ops.sqrt(x), "root", -1.0),
        (lambda ops, x: 1.0 / (x - x), "division", 0.0),
        (lambda ops, x: ops.exp(100.0 * ops.abs(x)), "exponential", 100.0),
        (lambda ops, x: ops.square(1e30 * x), "overflow", -1e30),
    ],
)
def test_operations_are_named_alike_in_both_frameworks(run: Callable[..., Any], kind: str, lowest: float) -> None:
    with of_torch.NonfiniteOperations() as made:
        run(torch, torch.tensor([-1.0, 2.0]))
    seen = of_keras.NonfiniteOperations()
    values = keras.ops.convert_to_tensor(np.float32([-1.0, 2.0]))
    with seen.watch():
        run(keras.ops, values)
    for found in (made.first.get("forward"), seen.first.get("forward")):
        assert found is not None
        assert found.kind == kind
        assert found.lowest == pytest.approx(lowest) or kind == "division"


# -- other engines of Keras -------------------------------------------------------------------------------------------

ENGINES = """
import torch  # before Keras: the other order crashes with some builds
import keras, numpy as np
import autotrainer
x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
inputs = keras.Input((6,))
hidden = keras.ops.log(keras.ops.relu(keras.layers.Dense(8, name="a")(inputs)))
model = keras.Model(inputs, keras.layers.Dense(2, name="b")(hidden))
result = autotrainer.fit(model, (x, (x[:, 0] > 0).astype("int64")), epochs=4, repair=False, progress=False,
                         loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer="sgd")
print(next(f.message for f in result.findings if f.problem == "nonfinite"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (
            "torch",
            "first appear in values computed after layer a in step 0, caused by the logarithm of 0.",
        ),
        ("jax", "NaN or infinite"),
    ],
)
def test_keras_on_other_engines(engine: str, told: str, run_python: Callable[..., Any]) -> None:
    done = run_python(ENGINES, KERAS_BACKEND=engine, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert told in done.stdout, done.stdout
