"""Edits of the structure of PyTorch models: widths, residual connections, the output layer, attention."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotrainer import edits as e
from autotrainer.adapter.spec import TrainingSpec
from autotrainer.backends.pytorch.layers.cosine_attention import CosineAttention
from autotrainer.backends.pytorch.layers.modules import Residual
from autotrainer.backends.pytorch.statistics.attention import module_attention
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, ActivationTracer
from autotrainer.backends.pytorch.surgery.model_editor import apply_edits

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


class Called(nn.Module):
    """Activations called as functions, the same two layers in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
        self.inner = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: torch.Tensor) -> Any:
        x = F.relu(self.first(x))
        for layer in self.inner:
            x = F.relu(layer(x))
        return self.out(x)


class Branches(nn.Module):
    """A sum of two branches, one normalized, and an average of the inputs beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(9, 2)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> Any:
        h = F.relu(self.stem(x))
        h = h + self.two(F.relu(self.norm(self.one(h))))
        return self.out(torch.cat([h, x.mean(1, keepdim=True)], 1))


class Tied(nn.Module):
    """The first layer is as wide as the input that it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(F.relu(self.second(x + F.relu(self.first(x)))))


class Summed(nn.Module):
    """The activation comes behind the sum, as in He et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> Any:
        h = F.relu(self.one(x))
        return self.out(self.act(h + self.two(h)))


class SummedBefore(nn.Module):
    """Two layers have one activation, called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(torch.tanh(self.one(x) + self.two(x)))


class SharedActivation(nn.Module):
    """One activation module behind all layers."""

    def __init__(self, kind: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.act = kind()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.c(self.act(self.b(self.act(self.a(x)))))


class SharedLayer(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(F.relu(self.twice(F.relu(self.twice(F.relu(self.first(x)))))))


class Sequences(nn.Module):
    """A recurrent layer in two directions between dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(1, 6), nn.Linear(16, 2)
        self.rnn = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.rnn(F.relu(self.first(x[..., None])))[0][:, -1])


class TwoInputs(nn.Module):
    """Each input has a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> Any:
        return self.out(torch.cat([F.relu(self.left(left)), F.relu(self.right(right))], 1))


class Encoder(nn.Module):
    """A transformer with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.first, self.blocks, self.out = nn.Linear(1, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        h = self.first(x[..., None])
        padding = torch.zeros(h.shape[:2], dtype=torch.bool, device=x.device)
        return self.out(self.blocks(h, src_key_padding_mask=padding).mean(1))


class OwnAttention(nn.Module):
    """Attention called as a function on queries, keys and values of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.out = nn.Linear(1, 8), nn.Linear(8, 24), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        parts = self.qkv(self.first(x[..., None])).split(8, -1)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(-2).mean(1))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.1),
        nn.Linear(16, 2),
    )  # fmt: skip


def deep() -> nn.Module:
    modules = [m for _ in range(3) for m in (nn.Linear(8, 8), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), *modules, nn.Linear(8, 2))


def same_as_applied(managed: Any, build: Callable[[], nn.Module], *edits: e.Edit, **changes: Any) -> Any:
    """Train with edits, and see that a plan of them on a fresh model gives the same one, which can be saved."""
    torch.manual_seed(1)
    trained, run = managed.train(build(), *edits, **changes)
    assert math.isfinite(run.ends[-1][1]["loss"])
    model, optimizer = apply_edits(trained.edits, build(), None)
    model.load_state_dict(trained.model.state_dict())
    buffer = io.BytesIO()
    torch.save(trained.model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    x = torch.randn(5, 4)
    given = (x, x) if isinstance(build(), TwoInputs) else (x,)
    for other in (model, loaded):
        torch.testing.assert_close(other.eval()(*given), trained.model.eval()(*given))
    assert optimizer is None
    return trained


# -- widths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "layers", "units", "resized", "followers"),
    [
        (Called, ("first", "inner.0", "inner.1"), (16, 16, 16), None, {"inner.0": 16, "inner.1": 16, "out": 16}),
        (Branches, ("stem", "one", "two"), (16, 16, 16), None, {"one": 16, "norm": 16, "two": 16, "out": 17}),
        (Branches, ("one",), (32,), None, {"norm": 32, "two": 32}),
        (Tied, ("first", "second"), (16, 16), ("second",), {"out": 16}),
        (conv, ("1", "4", "7"), (16, 12, 32), None, {"2": 16, "4": 16, "7": 48, "10": 32}),
        (Sequences, ("first", "rnn"), (16, 32), None, {"rnn": 16, "out": 32}),
        (SharedLayer, ("first", "twice"), (16, 16), None, {"twice": 16, "out": 16}),
        (SharedActivation, ("a", "b"), (16, 32), None, {"b": 16, "c": 32}),
        (Encoder, ("first", "blocks.layers.0.linear1"), (16, 32), ("blocks.layers.0.linear1",), None),
    ],
)
def test_resized_layers_and_their_followers(
    managed: Any, build: Any, layers: Any, units: Any, resized: Any, followers: Any
) -> None:
    trained = same_as_applied(managed, build, e.ResizeLayers(layers, units))
    edit = trained.edits[0]
    assert edit.layers == (resized or layers)
    if followers is not None:
        assert dict(zip(edit.followers, edit.inputs, strict=True)) == followers
    for name, number in zip(edit.layers, edit.units, strict=True):
        module = trained.model.get_submodule(name)
        rows = 8 * module.weight_hh_l0.shape[1] // 4 if isinstance(module, nn.LSTM) else module.bias.shape[0]
        assert rows == number


def test_several_inputs(managed: Any) -> None:
    x = managed.x
    data = {"train": ((x[:200], x[:200]), managed.y[:200]), "validation": ((x[200:], x[200:]), managed.y[200:])}
    trained = same_as_applied(managed, TwoInputs, e.ResizeLayers(("left", "right"), (16, 12)), **data)
    assert trained.edits[0].inputs == (28,)
    same_as_applied(managed, TwoInputs, e.SwapActivation(("left", "right"), "tanh"), e.ScaleOutputLayer(0.5), **data)


def test_parameters_stay_with_their_groups(managed: Any) -> None:
    model = managed.mlp()
    groups = [{"params": model[0].parameters(), "weight_decay": 0.1}, {"params": model[2:].parameters(), "lr": 0.5}]
    trained, _ = managed.train(model, e.ResizeLayers(("0", "2"), (24, 24)), optimizer=torch.optim.SGD(groups, lr=0.1))
    first, second = trained.optimizer.param_groups
    assert [tuple(p.shape) for p in first["params"]] == [(24, 4), (24,)]
    assert (first["weight_decay"], second["lr"]) == (0.1, 0.5)
    assert len(second["params"]) == 4
    assert model[0].weight.shape == (16, 4), "the model given stays as it is"


def test_new_weights_use_the_initializer_for_the_activation(managed: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    trained = managed.trainer(model).train(
        TrainingSpec(1, 0, (e.ResizeLayers(("0", "2"), (400, 400)),)), managed.Run(0)
    )
    assert float(trained.model[2].weight.detach().std()) == pytest.approx(math.sqrt(2 / 400), rel=0.05)
    assert not trained.model[2].bias.any()


def frozen_behind() -> nn.Module:
    model = conv()
    model[4].requires_grad_(False)
    return model


def tied_weights() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    model[4].weight = model[2].weight
    return model


@pytest.mark.parametrize(
    ("build", "edit", "says"),
    [
        (Tied, e.ResizeLayers(("first",), (16,)), "other widths do not fit"),
        (Tied, e.ResizeLayers(("out",), (16,)), "makes the output"),
        (frozen_behind, e.ResizeLayers(("1",), (16,)), "`4` has frozen parameters"),
        (tied_weights, e.ResizeLayers(("2",), (16,)), "shares weights"),
        (tied_weights, e.ResizeLayers(("0",), (16,)), "shares weights"),
        (Sequences, e.ResizeLayers(("rnn",), (15,)), "bidirectional"),
        (lambda: nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(4, 2)),
         e.ResizeLayers(("1",), (8,)), "in groups"),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 2)),
         e.ResizeLayers(("0",), (16,)), "parametrized"),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 2)),
         e.ResizeLayers(("0",), (16,)), "do not fit"),
    ],
)  # fmt: skip
def test_refused_widths_have_a_reason(managed: Any, build: Any, edit: e.Edit, says: str) -> None:
    model = build()
    before = [p.detach().clone() for p in model.parameters()]
    found = managed.trainer(model).supports(edit)
    assert not found
    assert says in found.reason
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_kept_layers_do_not_follow(managed: Any) -> None:
    trainer = managed.trainer(Called(), keep=("inner.1",))
    trained = trainer.train(TrainingSpec(1, 0, (e.ResizeLayers(("first", "inner.0"), (16, 16)),)), managed.Run())
    assert trained.edits[0].layers == ("first",)


def test_widths_without_data_need_a_plan() -> None:
    from autotrainer.errors import ConfigError

    with pytest.raises(ConfigError, match="plan of a result"):
        apply_edits((e.ResizeLayers(("first",), (16,)),), Called(), None)


# -- ways past layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "layers", "led"),
    [
        (deep, ("0", "2", "4", "6"), ("2", "4", "6")),
        (Called, ("first", "inner.0", "inner.1", "out"), ("inner.0", "inner.1")),
        (SharedActivation, ("a", "b"), ("b",)),
        (conv, ("1", "4", "7"), ("4",)),
    ],
)
def test_residual_gate_starts_at_zero(managed: Any, build: Any, layers: Any, led: Any) -> None:
    trained = same_as_applied(managed, build, e.AddResidual(layers))
    assert trained.edits[0].layers == led
    gates = [m.gate for m in trained.model.modules() if isinstance(m, Residual)]
    assert len(gates) == len(led)
    assert all(gate.item() != 0 for gate in gates), "they are trained"
    untouched, _ = apply_edits(trained.edits, build(), None)
    inside: dict[str, Any] = {}
    for name in led:
        place = {n.removeprefix("module."): m for n, m in untouched.named_modules()}[name]
        place.register_forward_hook(lambda m, args, out, name=name: inside.update({name: (args[0], out)}))
    untouched.eval()(torch.randn(3, 4))
    assert all(torch.equal(before, after) for before, after in inside.values())


def test_residual_connections_train_a_deep_stack(managed: Any) -> None:
    """Sixteen sigmoid layers answer all inputs alike; led past, they tell the sign of a sum."""
    y = (managed.x.sum(1) > 0).astype("int64")
    data = {"train": (managed.x[:200], y[:200]), "validation": (managed.x[200:], y[200:])}
    modules = [m for _ in range(15) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Sigmoid(), *modules, nn.Linear(16, 2))
    layers = tuple(str(i) for i in range(2, 32, 2))
    runs = [managed.train(model, *edits, epochs=20, **data)[1] for edits in ((), (e.AddResidual(layers),))]
    losses = [run.ends[-1][1]["val_loss"] for run in runs]
    assert losses[0] > 0.6
    assert losses[1] < 0.3


def test_other_edits_apply_inside_a_residual_block(managed: Any) -> None:
    edits = (
        e.AddResidual(("2", "4")),
        e.SwapActivation(("3", "4"), "relu"),
        e.InsertNormalization(("2",)),
        e.AddDropout(("2",), 0.1),
    )
    model = same_as_applied(managed, deep, *edits).model
    kinds = [type(module).__name__ for module in model[2].modules()]
    assert kinds == ["Residual", "Followed", "Linear", "BatchNorm1d", "Followed", "ReLU", "Dropout"]
    assert isinstance(model[3], nn.Identity)
    assert isinstance(model[4].activation, nn.ReLU)
    called = same_as_applied(managed, Called, e.AddResidual(("inner.0",)), e.SwapActivation(("inner.0",), "tanh")).model
    assert isinstance(called.module.inner[0].activation, nn.Tanh)
    swapped = same_as_applied(
        managed, Called, e.SwapActivation(("inner.0",), "tanh"), e.AddResidual(("inner.0",))
    ).model
    assert isinstance(swapped.module.inner[0].activation, nn.Tanh)
    shared = same_as_applied(managed, SharedActivation, e.AddResidual(("b",)), e.SwapActivation(("b",), "selu")).model
    assert isinstance(shared.act, nn.SELU)
    assert isinstance(shared.b.activation, nn.SELU)


@pytest.mark.parametrize(
    ("build", "layers", "says"),
    [
        (Branches, ("one",), "normalized"),
        (Branches, ("two",), "no activation follows"),
        (Branches, ("stem",), "as many outputs as inputs"),
        (lambda: SharedActivation(nn.Tanh), ("b",), "shared by several layers"),
        (SharedLayer, ("twice",), "more than once"),
        (Summed, ("two",), "summed with others"),
        (SummedBefore, ("one", "two"), "summed with others"),
        (Encoder, ("blocks.layers.0.self_attn.out_proj",), "part of"),
    ],
)
def test_refused_residual_connections_have_a_reason(managed: Any, build: Any, layers: Any, says: str) -> None:
    assert says in managed.trainer(build()).supports(e.AddResidual(layers)).reason


# -- the output layer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "names"), [(Called, ("out",)), (conv, ("10",)), (Branches, ("out",)), (Sequences, ("out",))]
)
def test_output_layer_is_scaled_down(managed: Any, build: Any, names: Any) -> None:
    torch.manual_seed(0)
    model = build()
    trained = managed.trainer(model).train(TrainingSpec(1, 0, (e.ScaleOutputLayer(0.25),)), managed.Run(0))
    assert trained.edits == (e.ScaleOutputLayer(0.25, names),)
    before, after = model.get_submodule(names[0]), trained.model.get_submodule(names[0])
    torch.testing.assert_close(after.weight, 0.25 * before.weight)
    torch.testing.assert_close(after.bias, 0.25 * before.bias)


@pytest.mark.parametrize(
    ("build", "changes", "says"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), {}, "undoes"),
        (Called, {"keep": ("out",)}, "keep='out'"),
        (lambda: nn.LSTM(4, 2), {"loss": lambda out, y: out[0].mean()}, "not made by"),
    ],
)
def test_refused_scaling_of_the_output_layer_has_a_reason(managed: Any, build: Any, changes: Any, says: str) -> None:
    assert says in managed.trainer(build(), **changes).supports(e.ScaleOutputLayer(0.1)).reason


# -- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("width", [None, 6])
def test_logits_are_the_limit_times_the_cosine(batch_first: bool, width: int | None) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, kdim=width, vdim=width).eval()
    nn.init.normal_(layer.in_proj_bias)
    weights = list(layer.parameters())
    CosineAttention.bound(layer, 7.0)
    assert all(a is b for a, b in zip(weights, layer.parameters(), strict=True))
    query, key = torch.randn(3, 5, 8), torch.randn(3, 5, width or 8)
    parts = [F.linear(x, w, b) for x, w, b in zip((query, key, key), *layer._projections(), strict=True)]
    parts = parts if batch_first else [part.transpose(0, 1) for part in parts]
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
    logits = 7 * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
    wanted = (logits.softmax(-1) @ v).transpose(1, 2).flatten(-2)
    wanted = layer.out_proj(wanted if batch_first else wanted.transpose(0, 1))
    for needed in (True, False):
        got, shares = layer(query, key, key, need_weights=needed)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        assert (shares is not None) is needed
    found = module_attention(layer, query, key, key)
    assert found is not None
    assert found[1].item() == pytest.approx(logits.detach().abs().max().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("build", "layers"),
    [(Encoder, ("blocks.layers.0.self_attn", "blocks.layers.1.self_attn")), (OwnAttention, ("qkv",))],
)
def test_attention_is_bounded_in_training_and_evaluation(managed: Any, build: Any, layers: Any) -> None:
    trained = same_as_applied(managed, build, e.ClipAttention(layers, 3.0))
    model, x = trained.model.eval(), torch.randn(4, 4)
    with torch.no_grad():
        quick = model(x)
    torch.testing.assert_close(quick, model(x), msg="no code of PyTorch's own goes past it in evaluation")
    tracer = ActivationTracer(model)
    tracer.arm()
    model(x)
    tracer.disarm()
    largest = [numbers[1].item() for numbers in tracer.attention.values()]
    assert largest
    assert max(largest) <= 3.0 + 1e-4


class Unpacked(OwnAttention):
    def forward(self, x: torch.Tensor) -> Any:
        q, k, v = self.qkv(self.first(x[..., None])).split(8, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).mean(1))


def test_the_plan_finds_calls_of_attention_in_the_graph() -> None:
    model = Unpacked().eval()
    run, symbolic = ActivationTracer(model).trace(lambda: model(torch.randn(2, 4))), ActivationGraph.of(model)
    assert dict(run.attention_calls) == dict(symbolic.attention_calls) == {"qkv": (0,)}


def test_refused_attention_bounds_have_a_reason(managed: Any) -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    class Attending(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.blocks.layers[0].self_attn = Own(8, 2, batch_first=True)
            self.blocks.layers[1].self_attn = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)

    trainer = managed.trainer(Attending())
    for number, says in enumerate(("custom forward", "add_bias_kv")):
        assert says in trainer.supports(e.ClipAttention((f"blocks.layers.{number}.self_attn",))).reason
    assert "not an attention layer" in trainer.supports(e.ClipAttention(("out",))).reason
    frozen = Encoder()
    frozen.blocks.requires_grad_(False)
    assert "frozen" in managed.trainer(frozen).supports(e.ClipAttention(("blocks.layers.0.self_attn",))).reason
