"""Compiled steps: no recompilation, bit-identical results, and measured as far as possible."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

import autotrainer
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)

STEPS = 24
X, Y = torch.randn(32, 4), torch.randint(0, 3, (32,))
Step = Callable[[], None]
Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Training:
    """Weights, optimizer and loss of one small training; its graphs are counted as they are compiled."""

    def __init__(self, *, fullgraph: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), torch.tensor(0.01))
        self.graphs = 0
        self._fullgraph = fullgraph

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def backend(graph: torch.fx.GraphModule, examples: Any) -> Callable[..., Any]:
            self.graphs += 1
            return graph.forward

        return torch.compile(function, backend=backend, fullgraph=self._fullgraph)

    def run(self, step: Step, *, watched: bool) -> Monitor | None:
        context: Any = nullcontext()
        if watched:
            context = autotrainer.watch(self.model, self.optimizer, loss_fn=self.loss, select=())
        with context as monitor:
            for _ in range(STEPS):
                self.optimizer.zero_grad()
                step()
        if monitor is not None:
            assert not monitor._failed
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*self.model.modules(), self.loss))
        return monitor

    def loss_step(self) -> Step:
        function = self.compiled(lambda x, y: self.loss(self.model(x), y))

        def step() -> None:
            function(X, Y).backward()
            self.optimizer.step()

        return step

    def forward_step(self) -> Step:
        function = self.compiled(lambda x: self.model(x))

        def step() -> None:
            self.loss(function(X), Y).backward()
            self.optimizer.step()

        return step

    def backward_step(self) -> Step:
        def forward_and_backward(x: Tensor, y: Tensor) -> None:
            self.loss(self.model(x), y).backward()

        function = self.compiled(forward_and_backward)

        def step() -> None:
            function(X, Y)
            self.optimizer.step()

        return step

    def part_step(self) -> Step:
        first, last = self.model[:2], self.model[2]
        function = self.compiled(lambda x: first(x))
        self.model.forward = lambda x: last(function(x))  # type: ignore[method-assign]

        def step() -> None:
            self.loss(self.model(X), Y).backward()
            self.optimizer.step()

        return step

    def optimizer_step(self) -> Step:
        function = self.compiled(lambda: self.optimizer.step())

        def step() -> None:
            self.loss(self.model(X), Y).backward()
            function()

        return step

    def late_step(self) -> Step:
        function, done = self.compiled(lambda x, y: self.loss(self.model(x), y)), [0]

        def step() -> None:
            done[0] += 1
            (function(X, Y) if done[0] > 5 else self.loss(self.model(X), Y)).backward()
            self.optimizer.step()

        return step

    def wrapped_step(self) -> Step:
        model: list[Callable[..., Any]] = []

        def step() -> None:
            if not model:
                model.append(self.compiled(self.model))
            self.loss(model[0](X), Y).backward()
            self.optimizer.step()

        return step


def values(training: Training) -> list[Tensor]:
    return [p.detach() for p in training.model.parameters()]


@pytest.mark.parametrize(
    ("name", "fullgraph", "told"),
    [
        ("loss_step", False, "the loss can't be observed"),
        ("loss_step", True, "the loss can't be observed"),
        ("forward_step", True, "activations are not measured"),
        ("backward_step", False, "the loss can't be observed"),
        ("part_step", True, "activations are not measured in 2 of 3 layers"),
        ("wrapped_step", False, "activations are not measured"),
        ("late_step", True, "activations are not measured"),
        ("optimizer_step", False, ""),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*Profiler.*:UserWarning")
def test_compiled_steps(name: str, fullgraph: bool, told: str, caplog: pytest.LogCaptureFixture) -> None:
    alone, seen = Training(fullgraph=fullgraph), Training(fullgraph=fullgraph)
    alone.run(getattr(alone, name)(), watched=False)
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor = seen.run(getattr(seen, name)(), watched=True)
    assert monitor is not None
    # A function that is compiled inside an eager pass is compiled once more where the pass follows calls of functions.
    assert seen.graphs == alone.graphs + (name == "part_step")
    assert all(torch.equal(a, b) for a, b in zip(values(alone), values(seen), strict=True))
    texts = [record.getMessage() for record in caplog.records if record.name == "autotrainer"]
    texts = [text for text in texts if not text.startswith("No loss was observed")]
    assert len(texts) == bool(told)
    assert all(told in text for text in texts)
    history = monitor.history
    assert history.steps[:10].tolist() == list(range(10))
    for column in ("grad_norm", "weight_norm", "update_ratio"):
        assert (history.layer(column)[1:, [0, -1]] > 0).all(), column
    measured = np.isfinite(history.layer("activation_std")[-1])
    assert measured.tolist() == [not told, not told, not told or name == "part_step"]


def test_an_exported_model_is_still_measured() -> None:
    training = Training()
    with autotrainer.watch(training.model, training.optimizer, loss_fn=training.loss, select=()) as monitor:
        torch.export.export(training.model, (X,))
        for _ in range(3):
            training.loss(training.model(X), Y).backward()
            training.optimizer.step()
    assert np.isfinite(monitor.history.layer("activation_std")).all()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the compiler's own, at the loss's inputs
@pytest.mark.parametrize("weighted", [False, True])
def test_warning_once_for_a_loss_compiled_while_watched(weighted: bool, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(2) if weighted else None)
    x, y = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=()):
        for step in range(6):
            if step == 2:
                loss_fn.compile(backend="eager")
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    assert caplog.text.count("the loss is compiled and can't be observed") == 1


def test_logged_values_of_a_compiled_loss(caplog: pytest.LogCaptureFixture) -> None:
    training = Training()
    function = training.compiled(lambda x, y: training.loss(training.model(x), y))
    with autotrainer.watch(training.model, training.optimizer, loss_fn=training.loss, select=()) as monitor:
        for _ in range(3):
            training.optimizer.zero_grad()
            loss = function(X, Y)
            loss.backward()
            monitor.log(loss=loss)
            training.optimizer.step()
    assert np.isfinite(monitor.history.scalar("loss")).all()
    assert "activations are not measured" in caplog.text
    assert "can't be observed" not in caplog.text


def whole_step(training: Training, backend: str) -> Step:
    def step(x: Tensor, y: Tensor) -> None:
        training.loss(training.model(x), y).backward()
        training.optimizer.step()

    function = torch.compile(step, backend=backend)
    return lambda: function(X, Y)


def compiled_model(training: Training, backend: str) -> Step:
    function = torch.compile(training.model, backend=backend)

    def step() -> None:
        training.loss(function(X), Y).backward()
        training.optimizer.step()

    return step


def compiled_in_place(training: Training, backend: str) -> Step:
    training.model.compile(backend=backend)

    def step() -> None:
        training.loss(training.model(X), Y).backward()
        training.optimizer.step()

    return step


def compiled_loss(training: Training, backend: str) -> Step:
    function = torch.compile(training.loss, backend=backend)

    def step() -> None:
        function(training.model(X), Y).backward()
        training.optimizer.step()

    return step


def compiled_optimizer(training: Training, backend: str) -> Step:
    function = torch.compile(training.optimizer.step, backend=backend)

    def step() -> None:
        training.loss(training.model(X), Y).backward()
        function()

    return step


def compiled_copy_for_evaluation(training: Training, backend: str) -> Step:
    function = torch.compile(training.model, backend=backend)

    def step() -> None:
        training.loss(training.model(X), Y).backward()
        training.optimizer.step()
        with torch.no_grad():
            training.loss(function(X), Y)

    return step


def trained(make: Callable[[Training, str], Step], backend: str, *, watched: bool) -> tuple[list[Tensor], int, int]:
    """Train, and return the weights and how many graphs were compiled, in all and in the second half."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    training, graphs = Training(), []
    step = make(training, backend)

    def counted() -> None:
        step()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    training.run(counted, watched=watched)
    assert len(graphs) == STEPS
    return values(training), graphs[-1], graphs[-1] - graphs[STEPS // 2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize(
    "make",
    [whole_step, compiled_model, compiled_in_place, compiled_loss, compiled_optimizer, compiled_copy_for_evaluation],
)
def test_weights_and_compilations_under_real_compilers(
    make: Callable[[Training, str], Step], backend: str, record_property: Any
) -> None:
    record_property("attacks", 1)
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("needs a compiler")
    alone, alone_graphs, _ = trained(make, backend, watched=False)
    watched, watched_graphs, late = trained(make, backend, watched=True)
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    assert not late
    assert watched_graphs == alone_graphs


def compiled_inside(training: Training, backend: str) -> Step:
    function = torch.compile(training.model, backend=backend)  # the module in it is watched

    def step() -> None:
        training.loss(function(X), Y).backward()
        training.optimizer.step()

    return step


def compiled_forward_and_loss(training: Training, backend: str) -> Step:
    function = torch.compile(lambda x, y: training.loss(training.model(x), y), backend=backend)

    def step() -> None:
        function(X, Y).backward()
        training.optimizer.step()

    return step


def compiled_block(training: Training, backend: str) -> Step:
    training.model[0].compile(backend=backend)

    def step() -> None:
        training.loss(training.model(X), Y).backward()
        training.optimizer.step()

    return step


def compiler_counts(make: Callable[[Training, str], Step], *, watched: bool) -> dict[str, int]:
    """Train for a few steps, some of them sampled; return what the compiler has done."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    training = Training()
    training.run(make(training, "eager"), watched=watched)
    counts = {name: counters["stats"][name] for name in ("unique_graphs", "calls_captured")}
    return {**counts, **{name: sum(counters[name].values()) for name in ("graph_break", "recompiles")}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "breaks"),
    [
        (compiled_inside, 0),
        (compiled_in_place, 0),
        (compiled_block, 0),
        (compiled_loss, 0),
        (compiled_forward_and_loss, 0),
        # PyTorch breaks the graph itself around a step, and does it once more where the optimizer has a step hook.
        (compiled_optimizer, 1),
        (whole_step, 1),
    ],
)
def test_watching_compiles_nothing_again(make: Callable[[Training, str], Step], breaks: int) -> None:
    alone, watched = compiler_counts(make, watched=False), compiler_counts(make, watched=True)
    assert watched.pop("graph_break") - alone.pop("graph_break") <= breaks
    assert watched == alone
