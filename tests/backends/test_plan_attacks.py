"""Plans that do not fit a model: an error that says what does not fit, and a model that stays as it is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotrainer import edits as e
from autotrainer import registry
from autotrainer.errors import ConfigError, InputError
from autotrainer.reporting.plan import RepairPlan
from autotrainer.testing import every_edit

Count = Callable[[str, int], None]


class Called(nn.Module):
    """Activations and attention that are called as functions, and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.b(F.relu(self.a(x))))
        x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        return torch.sigmoid(self.out(F.relu(self.b(x))))


class Branching(nn.Module):
    """What it computes depends on the data: it can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.out = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.act(self.a(x)) if x.sum() > 0 else x)


class Recurrent(nn.Module):
    """An embedding, an LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(5, 4), nn.LSTM(4, 4, bidirectional=True), nn.Linear(8, 1)

    def forward(self, x: Any) -> Any:
        return self.out(self.rnn(self.embed(x))[0])


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    return model


TORCH: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid()
    ),
    "images": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)),
    "called": Called,
    "branching": Branching,
    "recurrent": Recurrent,
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1),
    "frozen": frozen,
    "single": lambda: nn.Linear(4, 1),
    "empty": nn.Sequential,
    "half": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).half(),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(1)),
    "meta": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)).to("meta"),
    "parametrized": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 1)
    ),
    "named": lambda: nn.ModuleDict({"a\nimport os": nn.Linear(4, 4), "'": nn.ReLU(), "\u202e": nn.Linear(4, 1)}),
}
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda p: None,
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.5),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
    "sparse": lambda p: torch.optim.SparseAdam(p, 0.1),
}
NOT_OPTIMIZERS: list[Any] = [5, "sgd", object(), [], nn.Linear(1, 1), torch.optim.SGD, keras.optimizers.SGD()]
dense = keras.layers.Dense


class Subclassed(keras.Model):
    """A Keras model whose call is code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = (
            dense(4, "tanh", name="a"),
            dense(4, "tanh", name="b"),
            dense(1, "sigmoid", name="out"),
        )
        self.attend = keras.layers.MultiHeadAttention(1, 2, name="attend")

    def call(self, x: Any) -> Any:
        x = self.b(self.a(x))
        return self.out(self.attend(x[:, None], x[:, None])[:, 0])


def sequential(*layers: Any, shape: tuple[int, ...] = (4,), compiled: bool = True) -> Any:
    model = keras.Sequential([keras.Input(shape), *layers])
    if compiled:
        model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


def subclassed() -> Any:
    model = Subclassed()
    model(np.zeros((2, 4), "float32"))
    model.compile("sgd", "mse")
    return model


def two_outputs() -> Any:
    x = keras.Input((4,), name="x")
    a = dense(4, "relu", name="a")(x)
    return keras.Model(x, [dense(1, name="out")(a), dense(1, name="b")(a)])


KERAS: dict[str, Callable[[], Any]] = {
    "dense": lambda: sequential(
        dense(4, "tanh", name="a"), dense(4, "tanh", name="b"), dense(1, "sigmoid", name="out")
    ),
    "images": lambda: sequential(
        keras.layers.Conv2D(4, 3, name="a"), keras.layers.ReLU(name="b"), keras.layers.Flatten(), dense(2, name="out"),
        shape=(4, 4, 1),
    ),
    "subclassed": subclassed,
    "two outputs": two_outputs,
    "recurrent": lambda: sequential(
        keras.layers.Embedding(5, 4, name="a"), keras.layers.LSTM(4, name="b"), dense(1, name="out"), shape=(3,)
    ),
    "uncompiled": lambda: sequential(dense(4, "relu", name="a"), dense(1, name="out"), compiled=False),
    "unbuilt": lambda: keras.Sequential([dense(4, name="a"), dense(1, name="out")]),
    "nested": lambda: sequential(
        keras.Sequential([dense(4, "relu", name="a"), dense(4, "relu", name="b")], name="inner"), dense(1, name="out")
    ),
    "empty": lambda: keras.Sequential([keras.Input((4,))]),
}  # fmt: skip
KERAS_OPTIMIZERS: list[Any] = [
    None,
    "sgd",
    "adam",
    "lamb",
    keras.optimizers.Adagrad(0.1),
    keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9)),
]
NOT_KERAS_OPTIMIZERS: list[Any] = [5, "unknown", object(), [], torch.optim.SGD, dense(1)]


def torch_state(model: Any, optimizer: Any) -> list[Any]:
    """Return everything that applying a plan could change, as plain values."""
    state: list[Any] = []
    for name, module in model.named_modules(remove_duplicate=False):
        tensors = {**module._parameters, **module._buffers}
        state.append((name, id(module), type(module), plain_values(module)))
        state.append({key: None if t is None else tensor_state(t) for key, t in tensors.items()})
    if isinstance(optimizer, torch.optim.Optimizer):
        state.append((type(optimizer), len(optimizer.state), plain_values(optimizer)))
        for group in optimizer.param_groups:
            settings = {k: repr(v) for k, v in group.items() if k != "params"}
            state.append(([id(p) for p in group["params"]], settings))
    return state


def tensor_state(tensor: Any) -> Any:
    if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer) or tensor.is_meta:
        return id(tensor)
    values = tensor.detach().to(torch.float64).numpy().tobytes()
    return id(tensor), str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, tensor.grad is None, values


def keras_state(model: Any, optimizer: Any) -> list[Any]:
    """Return everything that applying a plan could change, as plain values."""
    state: list[Any] = [id(model.optimizer) if getattr(model, "compiled", False) else None]
    for layer in model._flatten_layers():
        activation = id(getattr(layer, "activation", None))
        state.append((id(layer), type(layer), layer.name, activation, plain_values(layer), repr(layer.dtype_policy)))
    state += [(id(v), v.path, np.array(v).tobytes(), v.trainable) for v in model.weights]
    if isinstance(optimizer, keras.optimizers.Optimizer):
        state.append((repr(optimizer.get_config()), len(optimizer.variables)))
    return state


def plain_values(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object: their values where they are plain, and how many hooks there are."""
    return {
        key: len(value) if "hooks" in key else repr(value) if isinstance(value, int | float | str | tuple) else ""
        for key, value in vars(owner).items()
    }


def attack(plan: RepairPlan, model: Any, optimizer: Any, state: Callable[[Any, Any], list[Any]]) -> str:
    """Apply a plan; return the error, or an empty text. After an error, all is as it was."""
    before = state(model, optimizer)
    try:
        plan.apply(model, optimizer)
        return ""
    except InputError as error:
        message = str(error)
    assert state(model, optimizer) == before, f"{plan.edits} has changed the model although it failed: {message}"
    assert message.isprintable()
    assert 10 < len(message) < 3_000
    return message


def variants(layers: list[str], seed: int) -> Iterator[e.Edit]:
    """Yield edits of all kinds: of layers that exist, that do not, or that are of the wrong kind; and odd numbers."""
    rng = random.Random(seed)
    names = [
        tuple(layers[:3]) or ("a",),
        ("no such layer",),
        ("a\nb", "\u202e"),
        ("",),
        tuple(reversed(layers)) or ("b",),
    ]
    names += [(name,) for name in layers] + [(name, "no such layer") for name in layers[:1]]
    for chosen in names:
        for edit in every_edit(chosen if all(chosen) else ("x",)):
            if hasattr(edit, "layers") or chosen is names[0]:
                yield edit
    columns: list[tuple[float, ...]] = [(1.0,), (1.0, 2.0, 3.0), (1e38,) * 4, (1e-38,) * 4, (1.0,) * 10_000]
    for mean in columns:
        yield e.ScaleInputs(mean, mean)
        yield e.ScaleTargets(mean, mean)
    yield from (e.NumberClasses(labels) for labels in ((0,), (3, 9), tuple(range(50)), (10**6,)))
    yield from (e.NumberClasses((0,), fill) for fill in (1e38, -1e38))
    yield from (e.AddInputNoise(std) for std in (5e-324, 1.0))
    yield from (e.SetLearningRate(rate) for rate in (5e-324, 1e308))
    yield from (e.SwapOptimizer(name, 1e308, weight_decay=1e308) for name in e.OPTIMIZERS)  # type: ignore[arg-type]
    yield from (e.SwapOptimizer(name, 0.1, 0.999) for name in ("sgd", "rmsprop"))  # type: ignore[arg-type]
    yield from (e.SetMomentum(0.999999, nesterov) for nesterov in (True, False))
    yield from (e.TuneAdam(*values) for values in ((0.0, None), (0.999999, 1e308), (None, 5e-324, True)))
    yield from (e.DecayRate(0.5, instead, steps) for instead in (True, False) for steps in (0, 1, 2**62))
    yield from (e.WarmUpRate(steps) for steps in (1, 2**62))
    for name in rng.sample(layers, min(3, len(layers))):
        yield from (e.ResizeLayers((name,), (units,)) for units in (1, 3, 10_000))
        yield from (e.ResizeLayers((name,), (units,), (other,), (units,)) for units in (1, 3) for other in layers[:4])
        yield e.ResizeLayers((name,), (3,), ("no such layer",), (3,))
        yield from (
            e.SwapActivation((name,), to, True, (0, 7, 2**62)) for to in ("relu", "softmax", "thresholded_relu")
        )  # type: ignore[arg-type]
        yield from (e.ClipAttention((name,), limit, (9, 2**62)) for limit in (5e-324, 1e308))
        yield from (e.InsertNormalization((name,), kind) for kind in ("layer", "group"))  # type: ignore[arg-type]
    yield from (e.SetOutputActivation(to) for to in ("linear", "softmax", "thresholded_relu"))  # type: ignore[arg-type]
    yield e.ScaleOutputLayer(5e-324, ("no such layer",))


def plans(model: Any, framework: str, seed: int) -> Iterator[RepairPlan]:
    """Yield plans of one edit, and of several of which the last does not fit."""
    layers = [layer.name for layer in registry.backend_of(model).layers(model)]
    edits = list(variants(layers, seed))
    rng = random.Random(seed)
    for edit in edits:
        yield RepairPlan((), (edit,), framework=framework)
    failing: list[e.Edit] = [
        e.Reinitialize(("no such layer",), "he_uniform"), e.ScaleTargets(), e.NumberClasses(), e.ScaleInputs(),
        e.TuneAdam(0.5), e.SetMomentum(0.5, True), e.ResizeLayers(("no such layer",), (3,)),
        e.AddResidual(("no such layer",)),
    ]  # fmt: skip
    for last in failing:
        for _ in range(12):
            first = tuple(rng.choice(edits) for _ in range(rng.choice((1, 2, 4))))
            yield RepairPlan((), (*first, last), framework=framework)
    for _ in range(20):
        yield RepairPlan((), tuple(rng.choice(edits) for _ in range(3)), framework=framework)


def sample(model: Any, framework: str, count: int) -> list[RepairPlan]:
    """Return some of the plans for a model, always the same."""
    made = list(plans(model, framework, 0))
    return random.Random(1).sample(made, min(count, len(made)))


@pytest.mark.parametrize("count", [40, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore")
def test_torch_models_stay_as_they_are_if_a_plan_does_not_fit(name: str, count: int, record_property: Count) -> None:
    optimizers = list(OPTIMIZERS.values())
    messages = []
    for number, plan in enumerate(sample(TORCH[name](), "pytorch", count)):
        model = TORCH[name]()
        parameters = list(model.parameters())
        has_weights = parameters and name != "lazy"
        optimizer = optimizers[number % len(optimizers)](parameters) if has_weights else None
        messages.append(attack(plan, model, optimizer, torch_state))
    record_property("attacks", len(messages))
    assert any(messages)
    assert not all(messages)


@pytest.mark.parametrize("count", [6, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KERAS)
@pytest.mark.filterwarnings("ignore")
def test_keras_models_stay_as_they_are_if_a_plan_does_not_fit(name: str, count: int, record_property: Count) -> None:
    messages = [
        attack(plan, KERAS[name](), KERAS_OPTIMIZERS[number % len(KERAS_OPTIMIZERS)], keras_state)
        for number, plan in enumerate(sample(KERAS[name](), "keras3", count))
    ]
    record_property("attacks", len(messages))
    assert any(messages)


def test_code_that_is_changed_in_place_is_put_back(record_property: Count) -> None:
    first = [
        e.SwapActivation(("a", "b"), "relu"), e.Reinitialize(("a", "out"), "he_uniform"), e.ClipAttention(("attend",)),
        e.ScaleOutputLayer(0.5, ("out",)), e.AddInputNoise(0.5), e.ScaleTargets((1.0,), (2.0,)),
    ]  # fmt: skip
    last = [e.Reinitialize(("no such layer",), "he_uniform"), e.InsertNormalization(("a",)), e.TuneAdam(0.5)]
    for one, other in zip(first, itertools.cycle(last), strict=False):
        assert attack(RepairPlan((), (one, other), framework="keras3"), KERAS["subclassed"](), None, keras_state)
    record_property("attacks", len(first))


def test_objects_that_are_no_optimizer_are_refused(record_property: Count) -> None:
    edits = (e.SetLearningRate(0.1), e.ScaleInputs((1.0,), (2.0,)), e.SwapOptimizer("sgd", 0.1))
    for edit in edits:
        for optimizer in NOT_OPTIMIZERS:
            plan = RepairPlan((), (edit,))
            with pytest.raises(ConfigError, match=r"optimizer must be a torch\.optim\.Optimizer"):
                plan.apply(TORCH["dense"](), optimizer)
        for optimizer in NOT_KERAS_OPTIMIZERS:
            message = attack(RepairPlan((), (edit,), framework="keras3"), KERAS["dense"](), optimizer, keras_state)
            assert "optimizer" in message
    record_property("attacks", len(edits) * (len(NOT_OPTIMIZERS) + len(NOT_KERAS_OPTIMIZERS)))


@pytest.mark.parametrize(
    "model", [None, 5, "model", object(), [], nn.Linear, keras.Model, np.zeros(3)], ids=lambda m: type(m).__name__
)
def test_objects_that_are_no_model_are_refused(model: Any) -> None:
    with pytest.raises(InputError, match="is not a supported model"):
        RepairPlan((), (e.SetLearningRate(0.1),)).apply(model)


@pytest.mark.parametrize(
    ("framework", "build", "edit", "message"),
    [
        ("pytorch", TORCH["images"], e.ScaleTargets((1.0,) * 3, (1.0,) * 3), "it has 2 outputs, and the edit"),
        ("pytorch", TORCH["images"], e.NumberClasses((0, 3, 4)), "3 labels need as many outputs, and it has 2"),
        ("keras3", KERAS["images"], e.NumberClasses((0, 3, 4)), "3 labels need as many outputs, and the model has 2"),
        ("pytorch", TORCH["dense"], e.ResizeLayers(("1",), (3,), ("2",), (3,)), "`1` can't have another width"),
        ("pytorch", TORCH["dense"], e.Reinitialize(("fc",), "he_uniform"), "the model has no layer 'fc'"),
        ("keras3", KERAS["dense"], e.Reinitialize(("fc",), "he_uniform"), "the model has no layer named 'fc'"),
        ("keras3", KERAS["unbuilt"], e.Reinitialize(("a",), "he_uniform"), "is not built"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(framework: str, build: Any, edit: e.Edit, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RepairPlan((), (edit,), framework=framework).apply(build())
