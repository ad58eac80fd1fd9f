from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotrainer import edits as e
from autotrainer.backends.pytorch.model.operations import count_operations
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, ActivationTracer
from autotrainer.backends.pytorch.surgery.model_editor import ModelEditor, apply_edits
from autotrainer.backends.pytorch.surgery.reinitialize import SCHEMES
from autotrainer.edits import base
from autotrainer.errors import ConfigError


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.relu, self.head = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = self.relu(x + self.two(self.relu(self.norm(self.one(x)))))
        return F.log_softmax(self.head(x.mean((2, 3))), 1)


class TwiceCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.layer(torch.tanh(self.layer(x))))
        out: torch.Tensor = self.head(x).squeeze(-1)
        return out


class DependsOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.layer, self.head = nn.Sigmoid(), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 1e9:
            x = x * 0
        out: torch.Tensor = self.head(self.act(self.layer(x)))
        return out


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3), nn.Softmax(-1))


INPUTS: dict[Any, torch.Tensor] = {Residual: torch.randn(2, 1, 5, 5)}


@pytest.mark.parametrize("build", [Residual, TwiceCalled, sequential])
def test_symbolic_trace_and_forward_pass_give_the_same_activation_graph(build: Any) -> None:
    model = build().eval()
    x = INPUTS.get(build, torch.randn(2, 4))
    run, symbolic = ActivationTracer(model).trace(lambda: model(x)), ActivationGraph.of(model)
    assert {(n.name, n.activation, n.output) for n in run.nodes} == {
        (n.name, n.activation, n.output) for n in symbolic.nodes
    }
    assert dict(run.functional) == dict(symbolic.functional)
    assert dict(run.call_numbers) == dict(symbolic.call_numbers)
    assert run.output == symbolic.output
    assert run.output_call == symbolic.output_call
    assert not symbolic.guessed
    assert not any(module._forward_hooks for module in model.modules())


def test_activation_graph() -> None:
    model = Residual().eval()
    graph = ActivationTracer(model).trace(lambda: model(torch.randn(2, 1, 5, 5)))
    assert dict(graph.functional) == {"stem": "relu", "head": "log_softmax"}
    assert dict(graph.call_numbers) == {"stem": (0,), "head": (1,)}
    assert graph.output_call == 1
    assert [set(node.feeders) for node in graph.nodes] == [{"one"}, {"two"}]
    assert graph.normalized == {"one"}
    assert graph.ranks["one"] == 4
    twice = TwiceCalled()
    assert ActivationTracer(twice).trace(lambda: twice(torch.ones(2, 4))).call_numbers["layer"] == (0, 1)


def test_model_whose_graph_can_not_be_traced() -> None:
    model, _ = apply_edits((e.SwapActivation(("layer", "act"), "relu"),), DependsOnData(), None)
    assert isinstance(model.act, nn.ReLU)
    assert not model.layer.bias.any()
    assert model.head.bias.any()
    with pytest.raises(ConfigError, match="depends on the data"):
        apply_edits((e.SetOutputActivation("softmax"),), DependsOnData(), None)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (e.ScaleInputs(), "no fitted numbers"),
        (e.SwapActivation(("nope",), "relu"), "no layer 'nope'"),
        (e.SetOutputActivation("softmax"), "already"),
    ],
)
def test_plans_that_do_not_fit(edit: e.Edit, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        apply_edits((edit,), sequential(), None)


def test_optimizer_edits_that_do_not_fit() -> None:
    model = sequential()
    with pytest.raises(ConfigError, match="no momentum"):
        apply_edits((e.SetMomentum(0.9),), model, torch.optim.Adam(model.parameters()))


def test_edits_of_the_loop_are_ignored() -> None:
    model = sequential()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    edits = (e.SetBatchSize(8), e.StopEarly(3), e.SetLoss("cross_entropy", "probabilities"), e.SetLearningRate(0.5))
    same, changed = apply_edits(edits, model, optimizer)
    assert same is model
    assert changed is optimizer
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_parameters_of_a_replaced_activation_leave_the_optimizer() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = apply_edits((e.SwapActivation(("0",), "relu"),), model, optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_initializers_for_activations() -> None:
    assert set(get_args(base.Activation)) <= set(e.INITIALIZER)
    assert set(e.INITIALIZER.values()) <= set(SCHEMES) == set(get_args(base.Initializer))


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(4, 8), (3, 4), 32),
        (nn.Linear(4, 8), (3, 5, 4), 160),
        (nn.Conv2d(2, 8, 3, padding=1), (3, 2, 6, 6), 36 * 8 * 18),
        (nn.Conv2d(4, 8, 3, groups=4), (3, 4, 5, 5), 9 * 8 * 9),
        (nn.ConvTranspose1d(2, 4, 3), (3, 2, 5), 5 * 2 * 12),
        (nn.LSTM(4, 6, bias=False, batch_first=True), (3, 5, 4), 5 * 24 * 10),
        (nn.ReLU(), (3, 4), 1),
    ],
)
def test_operations_of_one_sample(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    x = torch.randn(shape)
    assert count_operations(model, lambda: model(x), 3) == expected


def test_counting_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    tokens = torch.randn(3, 5, 8)
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    count_operations(model, lambda: F.dropout(model(torch.randn(3, 4))), 3)
    assert count_operations(attention, lambda: attention(tokens), 3) > 5 * (4 * 64 + 2 * 8 * 16)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_columns_become_logarithms_or_are_dropped() -> None:
    scaling = e.ScaleInputs((1.0,) * 4, (2.0,) * 4, (0.0, 0.5, 0.0, 0.0), (0.0, 0.1, 0.0, 3.0), (2,), (0,))
    model = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(5, 4)
    values = x.clone()
    values[:, 1], values[:, 3] = torch.asinh((x[:, 1] - 0.5) / 0.1), torch.asinh(x[:, 3] / 3)
    values = (values - 1) / 2
    values[:, [0, 2]] = 0
    expected = model(values)
    changed, _ = apply_edits((scaling,), model, None)
    torch.testing.assert_close(changed(x), expected)
    assert {"mean", "std", "log_center", "log_scale", "kept"} <= set(changed.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1e-3])
def test_inputs_in_half_precision_are_scaled_in_single(dtype: torch.dtype, scale: float) -> None:
    logarithm = ((0.0, 0.0), (scale, scale)) if scale else ()
    changed, _ = apply_edits((e.ScaleInputs((8.0, 1e5), (5.0, 1e5), *logarithm),), nn.Identity(), None)
    x = torch.tensor([[6e4, -6e4]], dtype=dtype)
    values = x.double().numpy()
    values = torch.from_numpy((np.arcsinh(values / scale) if scale else values) - [8.0, 1e5]) / torch.tensor([5.0, 1e5])
    assert changed(x).dtype == dtype
    torch.testing.assert_close(changed(x), values.to(dtype))


@pytest.mark.parametrize("std", [1e-9, 1e25])
def test_very_small_and_large_inputs_are_scaled(std: float) -> None:
    changed, _ = apply_edits((e.ScaleInputs((std, 0.0), (std, std)),), nn.Identity(), None)
    torch.testing.assert_close(changed(torch.tensor([[3 * std, -std]])), torch.tensor([[2.0, -1.0]]))


def test_layers_are_thawed_only_where_all_are_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    with pytest.raises(ConfigError, match="never changed"):
        apply_edits((e.ThawLayers(),), model, None)
    model.requires_grad_(False)
    changed, _ = apply_edits((e.ThawLayers(("2",)),), model, None)
    assert [parameter.requires_grad for parameter in changed.parameters()] == [False, False, True, True]


def test_activations_are_added_only_where_there_are_none() -> None:
    x = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    edit = e.AddActivation(("0", "1", "3"), "relu")
    editor = ModelEditor(model, ActivationGraph.of(model))
    assert editor.plan(edit)[0] == (e.AddActivation(("0",), "relu"),)
    assert "`3` makes the output" in editor.plan(e.AddActivation(("3",), "relu"))[1]
    assert "`1` has an activation already" in editor.plan(e.AddActivation(("1",), "relu"))[1]
    expected = model[3](torch.tanh(model[1](torch.relu(model[0](x)))))
    changed, _ = apply_edits((edit,), model, None)
    torch.testing.assert_close(changed(x), expected)
    assert len(list(changed.parameters())) == 6


def test_dropout_rates_are_lowered_wherever_they_are_kept() -> None:
    class DropPath(nn.Module):
        drop_prob = 0.8

    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.9)
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout2d(0.9), nn.LSTM(4, 4, 2, dropout=0.7), DropPath(), encoder)
    editor = ModelEditor(model, ActivationGraph.of(model), ("1",))
    (edit,), _ = editor.plan(e.LimitDropout(0.2))
    assert edit.layers == ("2", "3", "4.self_attn", "4.dropout", "4.dropout1", "4.dropout2")
    editor.apply(edit)
    assert (model[0].p, model[1].p, model[2].dropout, model[3].drop_prob) == (0.1, 0.9, 0.2, 0.2)
    assert encoder.self_attn.dropout == encoder.dropout.p == encoder.dropout2.p == 0.2
    assert editor.plan(e.LimitDropout(0.9)) == ((), "no layer has a dropout rate above 0.9")
    assert "keep='1' protects `1`" in editor.plan(e.LimitDropout(0.2))[1]
    assert "own code" in editor.plan(e.DropPenalties())[1]


@pytest.mark.parametrize("same_module", [False, True])
def test_layers_that_share_weights_with_kept_ones_stay_frozen(same_module: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1))
    if same_module:
        model[0] = model[2]
    else:
        model[0].weight = model[2].weight
    model.requires_grad_(False)
    editor = ModelEditor(model, ActivationGraph.of(model), ("2",))
    edits, _ = editor.plan(e.ThawLayers())
    assert edits == (e.ThawLayers(("3",)),)
    refused, reason = editor.plan(e.ThawLayers(("0",)))
    assert not refused
    assert "`0` shares weights with a layer that must not change: keep='2' protects `2`" in reason
