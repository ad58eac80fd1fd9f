"""Unusual models, gradients and calls: nothing raises, and everything that can be measured is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import autotrainer
from autotrainer.errors import InputError
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.reporting.coverage import unobserved

torch.set_num_threads(1)


def watched(
    model: nn.Module,
    x: Callable[[], Any],
    loss: Callable[[Any], Tensor] | None = None,
    steps: int = 12,
    optimizer: Any = None,
) -> Monitor:
    """Train on the mean square of the output, through a loss module."""
    loss_fn = nn.MSELoss()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=()) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            given = x()
            output = model(*given) if isinstance(given, tuple) else model(given)
            found = loss(output) if loss is not None else output
            loss_fn(found, torch.zeros_like(found)).backward()
            optimizer.step()
    assert not monitor._failed
    assert len(monitor.history.steps) >= 10
    return monitor


def measured(monitor: Monitor, column: str) -> dict[str, bool]:
    values = monitor.history.layer(column)[-1]
    return {info.name: not np.isnan(v) for info, v in zip(monitor.history.layers, values, strict=True)}


class Wrapped(nn.Module):
    """Runs a function over a few layers."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Pair(NamedTuple):
    hidden: Tensor
    logits: Tensor


def batch() -> Tensor:
    return torch.randn(6, 4)


def test_recurrent_layers() -> None:
    model = Wrapped(lambda m, x: m.head(F.relu(m.gru(x)[0][-1])), gru=nn.GRU(4, 5), head=nn.Linear(5, 1))
    monitor = watched(model, lambda: torch.randn(3, 6, 4))
    infos = {info.name: info for info in monitor.history.layers}
    assert (infos["gru"].kind, infos["gru"].activation, infos["gru"].units) == ("recurrent", "tanh", 5)
    assert all(measured(monitor, "activation_spread").values())


def test_embedding_with_sparse_gradients_and_index_inputs() -> None:
    model = Wrapped(
        lambda m, x: m.head(m.table(x).mean(1)), table=nn.Embedding(50, 4, sparse=True), head=nn.Linear(4, 1)
    )
    monitor = watched(model, lambda: torch.randint(0, 3, (6, 5)))
    assert monitor.context.input_kind == "index"
    zeros = monitor.history.layer("grad_zero_fraction")[-1, 0]
    assert zeros >= 1 - 3 / 50 - 1e-6
    assert measured(monitor, "update_ratio")["table"]
    assert np.isnan(monitor.history.scalar("input_mean")).all()


def test_attention_and_transformer() -> None:
    model = nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(20, 2), nn.Softmax(1)
    )
    monitor = watched(model, lambda: torch.randn(6, 5, 4))
    names = [info.name for info in monitor.history.layers]
    assert names.index("0.self_attn") + 1 == names.index("0.self_attn.out_proj")
    infos = {info.name: info for info in monitor.history.layers}
    assert infos["0.linear1"].activation == "relu"
    assert infos["0.self_attn"].kind == "attention"
    assert [info.name for info in monitor.history.layers if not info.hidden] == ["2", "3"]
    assert measured(monitor, "grad_norm")["0.self_attn.out_proj"]


def test_frozen_layers_have_no_gradient_columns() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    monitor = watched(model, batch, optimizer=torch.optim.SGD(model[2].parameters(), 0.1))
    assert [info.frozen for info in monitor.history.layers] == [True, False, False]
    assert measured(monitor, "grad_norm") == {"0": False, "1": False, "2": True}
    assert measured(monitor, "activation_std")["0"]


def test_parameters_without_gradient_and_without_optimizer() -> None:
    model = Wrapped(
        lambda m, x: m.used(m.forgotten(x)), used=nn.Linear(4, 1), forgotten=nn.Linear(4, 4), idle=nn.Linear(2, 2)
    )
    optimizer = torch.optim.SGD([*model.used.parameters(), *model.idle.parameters()], 0.1)  # type: ignore[operator, union-attr]
    monitor = watched(model, batch, optimizer=optimizer)
    assert measured(monitor, "grad_norm") == {"forgotten": True, "used": True, "idle": False}
    ratios = dict(zip([i.name for i in monitor.history.layers], monitor.history.layer("update_ratio")[-1], strict=True))
    assert ratios["forgotten"] == 0
    assert ratios["used"] > 0


def test_parametrized_layers_keep_their_name() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 1))
    monitor = watched(model, batch)
    assert [info.name for info in monitor.history.layers] == ["0", "1", "2"]
    assert all(measured(monitor, "activation_std").values())
    assert measured(monitor, "grad_norm") == {"0": True, "1": False, "2": True}


def test_tied_weights_count_once() -> None:
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    model = nn.Sequential(a, nn.Tanh(), b)
    monitor = watched(model, batch)
    assert measured(monitor, "grad_norm") == {"0": True, "1": False, "2": False}
    total = monitor.history.scalar("grad_norm")[-1]
    assert total == pytest.approx(monitor.history.layer("grad_norm")[-1, 0])


def test_a_module_in_two_places_is_one_row() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 1))
    monitor = watched(model, batch)
    assert [info.name for info in monitor.history.layers] == ["0", "1", "3", "4"]


def test_lazy_layers() -> None:
    model = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = watched(model, batch, optimizer=optimizer)
    assert [info.parameters for info in monitor.history.layers] == [25, 0, 6]
    assert measured(monitor, "update_ratio") == {"0": True, "1": False, "2": True}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_number_types(kind: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1)).to(kind)
    monitor = watched(model, lambda: batch().to(kind))
    assert all(measured(monitor, "activation_std").values())
    assert np.isfinite(monitor.history.scalar("grad_norm")).all()
    assert np.isfinite(monitor.history.scalar("output_spread")).all()


def test_large_half_precision_gradients_do_not_overflow() -> None:
    model = nn.Linear(64, 64).to(torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with autotrainer.watch(model, optimizer, select=()) as monitor:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e4)
        model(torch.ones(1, 64, dtype=torch.float16))
        optimizer.step()
    assert monitor.history.scalar("grad_norm")[0] == pytest.approx(1e4 * (64 * 65) ** 0.5, rel=1e-3)


def test_complex_parameters() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(torch.complex64) @ self.weight).abs()

    monitor = watched(Complex(), batch)
    assert measured(monitor, "grad_norm") == {"complex": True}
    assert measured(monitor, "update_ratio") == {"complex": True}


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda h, y: (y, h), lambda out: out[0]),
        (lambda h, y: {"hidden": h, "logits": y}, lambda out: out["logits"]),
        (lambda h, y: Pair(h, y), lambda out: out.logits),
        (lambda h, y: [None, "text", y], lambda out: out[2]),
    ],
)
def test_modules_may_return_anything(wrap: Callable[..., Any], unwrap: Callable[[Any], Tensor]) -> None:
    model = Wrapped(lambda m, x: wrap(h := m.a(x), m.b(torch.tanh(h))), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    monitor = watched(model, batch, unwrap)
    assert monitor.context.output_units == 2
    assert [info.name for info in monitor.history.layers if not info.hidden] == ["b"]


def test_several_inputs() -> None:
    model = Wrapped(lambda m, i, x: m.b(m.a(i).sum(1) + x), a=nn.Embedding(9, 4), b=nn.Linear(4, 1))
    monitor = watched(model, lambda: (torch.randint(0, 9, (6, 2)), batch()))
    assert monitor.context.input_kind == "values"
    assert np.isfinite(monitor.history.scalar("input_std")).all()


class ByParts(nn.Module):
    """Never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        self.decoder = nn.Linear(3, 4)


def test_model_that_is_called_by_parts() -> None:
    model, loss_fn = ByParts(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=()) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            x = batch()
            loss_fn(model.decoder(model.encoder(x)), x).backward()
            optimizer.step()
    assert not monitor._failed
    assert [info.name for info in monitor.history.layers] == ["encoder.0", "encoder.1", "decoder"]
    assert all(measured(monitor, "activation_std").values())
    assert [info.hidden for info in monitor.history.layers] == [True, True, False]
    assert monitor.context.output_activation == "linear"
    assert sum(len(m._forward_hooks) for m in model.modules()) == 0


def test_data_parallel_names() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)))
    monitor = watched(model, batch)
    assert [info.name for info in monitor.history.layers] == ["0", "1", "2"]
    assert all(measured(monitor, "activation_std").values())


def test_a_compiled_model_is_not_hooked(caplog: pytest.LogCaptureFixture) -> None:
    model = torch.compile(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), backend="eager")
    inner: nn.Module = model._orig_mod  # type: ignore[attr-defined]
    loss_fn, optimizer = nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=())
    for _ in range(3):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in inner.modules())
        loss_fn(inner(batch()), torch.zeros(6, 1)).backward()
        optimizer.step()
    monitor.close()
    assert caplog.text.count("is compiled") == 1
    assert [info.name for info in monitor.history.layers] == ["0", "1", "2"]
    assert measured(monitor, "grad_norm")["0"]
    assert not any(measured(monitor, "activation_std").values())
    assert monitor.context.output_units == 1
    assert "activations of compiled layers" in monitor.report().run["unmeasured"]


def test_checkpointed_parts() -> None:
    from torch.utils.checkpoint import checkpoint

    model = Wrapped(
        lambda m, x: m.b(checkpoint(m.a, x, use_reentrant=False)),
        a=nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        b=nn.Linear(4, 1),
    )
    assert all(measured(watched(model, batch), "grad_norm")[name] for name in ("a.0", "b"))


def test_batches_of_one_sample() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    monitor = watched(model, lambda: torch.randn(1, 4))
    assert not any(measured(monitor, "activation_spread").values())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_models_and_parts() -> None:
    part = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)))
    monitor = watched(part, batch)
    assert measured(monitor, "grad_norm")["0"]
    monitor = watched(nn.Sequential(part, nn.Tanh(), nn.Linear(4, 1)), batch)
    assert measured(monitor, "activation_std") == {"0.0": False, "0.2": False, "1": True, "2": True}


def test_internal_failure_never_reaches_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from autotrainer.backends.pytorch.watching.step_measurement import StepMeasurement

    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(StepMeasurement, "observation", broken)
    model, loss_fn = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with caplog.at_level(logging.WARNING, "autotrainer"), autotrainer.watch(model, optimizer, loss_fn=loss_fn):
        for _ in range(3):
            loss_fn(model(batch()), torch.zeros(6, 1)).backward()
            optimizer.step()
        assert not any(m._forward_hooks for m in model.modules())
    assert caplog.text.count("failed and is switched off") == 1


LINEAR = nn.Linear(2, 1)


@pytest.mark.parametrize(
    ("optimizer", "loss_fn", "message"),
    [
        (None, None, "the optimizer is missing"),
        ((), None, "empty sequence"),
        ("adam", None, "must be a torch.optim.Optimizer"),
        (torch.optim.SGD(nn.Linear(2, 1).parameters(), 0.1), None, "owns none of the parameters"),
        (torch.optim.SGD(LINEAR.parameters(), 0.1), 3.0, "loss_fn must be"),
    ],
)
def test_bad_input_is_an_error_at_once(optimizer: Any, loss_fn: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        autotrainer.watch(LINEAR, optimizer, loss_fn=loss_fn)
    assert not LINEAR._forward_hooks


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    loss_fn = nn.MSELoss()
    with autotrainer.watch(LINEAR, torch.optim.SGD(LINEAR.parameters(), 0.1), loss_fn=loss_fn) as monitor:
        assert not loss_fn._forward_hooks
        monitor.log(loss=1.0)
        monitor.end_epoch(val_loss=1.0)
    assert monitor.findings == []


@pytest.mark.parametrize(("overhead", "sampled"), [(1e-5, []), (1, [0, 1, 2])])
def test_the_first_step_of_a_large_model_is_not_measured_where_that_takes_too_long(
    overhead: float, sampled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Sampler.__init__.__kwdefaults__, "processor", time.perf_counter)
    model = nn.Sequential(*(part for _ in range(300) for part in (nn.Linear(2, 2), nn.ReLU())))
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.01), nn.MSELoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=overhead, select=()) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(model(torch.ones(4, 2)), torch.zeros(4, 2)).backward()
            optimizer.step()
    assert monitor.history.steps.tolist() == sampled
    assert monitor.history.losses[0].tolist() == [0, 1, 2]
    told = [sentence for sentence in unobserved(monitor.history, monitor.context) if "600 layers" in sentence]
    assert len(told) == (not sampled)


def test_a_resumed_training_is_sampled_from_its_first_step_on() -> None:
    model = nn.Linear(2, 1)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.01), nn.MSELoss()

    def train(monitor: Monitor) -> None:
        for _ in range(4):
            optimizer.zero_grad()
            loss_fn(model(torch.ones(4, 2)), torch.zeros(4, 1)).backward()
            optimizer.step()

    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1) as monitor:
        train(monitor)
    monitor.history.step = 99_999
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1, state=monitor.state_dict()) as monitor:
        train(monitor)
    assert monitor.history.steps.tolist() == [0, 1, 2, 3, 100_000, 100_001, 100_002, 100_003]


class Experts(nn.Module):
    """A sum of experts, weighted by a softmax that is not the activation of its output."""

    def __init__(self, gates: float) -> None:
        super().__init__()
        self.gate, self.gates = nn.Linear(8, 3), gates
        self.experts = nn.ModuleList(nn.Linear(8, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        gates = self.gates * self.gate(x).softmax(-1)
        return (torch.stack([expert(x) for expert in self.experts], 1) * gates[..., None]).sum(1)


def test_a_gate_is_no_output_activation() -> None:
    torch.manual_seed(0)
    model, loss_fn = Experts(gates=0.0), nn.CrossEntropyLoss()
    x = torch.randn(64, 8)
    y = x[:, :4].argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, steps=100) as monitor:
        for _ in range(100):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    problems = {finding.problem for finding in monitor.findings}
    assert monitor.context.output_activation is None
    assert "improper_output_activation" not in problems
    assert "no_gradient" in problems


@pytest.mark.parametrize("logarithms", [True, False])
def test_alignments_take_log_probabilities(logarithms: bool) -> None:
    torch.manual_seed(0)
    model, loss_fn = nn.Linear(6, 5), nn.CTCLoss()
    x, y = torch.randn(12, 8, 6), torch.randint(1, 5, (8, 4))
    lengths = torch.full((8,), 12), torch.full((8,), 4)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, steps=100) as monitor:
        for _ in range(100):
            outputs = model(x)
            optimizer.zero_grad()
            loss_fn(outputs.log_softmax(-1) if logarithms else outputs, y, *lengths).backward()
            optimizer.step()
    named = "improper_output_activation" in {finding.problem for finding in monitor.findings}
    assert named is not logarithms


def test_a_policy_that_has_converged_has_no_error() -> None:
    torch.manual_seed(0)
    states = torch.eye(5)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    with autotrainer.watch(model, optimizer, steps=200) as monitor:
        for _ in range(200):
            position, returns, chosen = torch.full((16,), 2), torch.zeros(16), []
            for _ in range(5):
                policy = torch.distributions.Categorical(logits=model(states[position]))
                action = policy.sample()
                chosen.append(policy.log_prob(action))
                position = (position + 2 * action - 1).clamp(0, 4)
                returns += position == 4
            loss = -(torch.stack(chosen).sum(0) * (returns - returns.mean())).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert float(returns.mean()) > 3.5
    assert [finding for finding in monitor.findings if finding.severity == "error"] == []
