"""What is made from a watched model equals what is made from an unwatched one, at any point of a training loop."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import autotrainer
from autotrainer.monitoring.sampler import Sampler

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.ao.quantization.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Profiler.*:UserWarning"),
]

X, Y = torch.linspace(-1, 1, 32).reshape(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
STEPS = 5
POINTS = ("before zero_grad", "after forward", "after loss", "after backward", "after step")
Operation = Callable[[nn.Module, torch.optim.Optimizer, nn.Module], Any]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.first(x))))


class CustomState(Net):
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "saved_by": "its own code"}


class CustomCopy(Net):
    def __deepcopy__(self, memo: dict[int, Any]) -> CustomCopy:
        made = type(self).__new__(type(self))
        vars(made).update(copy.deepcopy(vars(self), memo))
        return made


MODELS = {"net": Net, "custom state": CustomState, "custom copy": CustomCopy}


def attributes(module: nn.Module) -> list[tuple[str, list[str], int]]:
    parts = ((name, sorted(vars(part)), part) for name, part in module.named_modules())
    return [(name, names, len(part._forward_hooks) + len(part._forward_pre_hooks)) for name, names, part in parts]


def saved(save: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    assert b"autotrainer" not in buffer.getvalue().replace(__name__.encode(), b"")
    return buffer.getvalue()


def scripted(model: nn.Module, *_: Any) -> Any:
    script = torch.jit.script(model)
    saved(lambda buffer: torch.jit.save(script, buffer))
    return script.code, script(X)


def scripted_in_a_container(model: nn.Module, *_: Any) -> Any:
    container = nn.Sequential(model)
    return torch.jit.script(container).code, container[0] is model


def scripted_loss(model: nn.Module, optimizer: Any, loss: nn.Module) -> Any:
    return torch.jit.script(loss).code


def frozen_script(model: nn.Module, *_: Any) -> Any:
    model.eval()
    script = torch.jit.freeze(torch.jit.script(model))
    model.train()
    return script.code


def traced(model: nn.Module, *_: Any) -> Any:
    trace = torch.jit.trace(model, X)
    saved(lambda buffer: torch.jit.save(trace, buffer))
    return trace.code, str(trace.inlined_graph).partition("\n")[2], trace(X)


def traced_loss(model: nn.Module, optimizer: Any, loss: nn.Module) -> Any:
    return torch.jit.trace(loss, (torch.ones(8, 3), Y)).code


def exported(model: nn.Module, *_: Any) -> Any:
    program = torch.export.export(model, (X,))
    saved(lambda buffer: torch.export.save(program, buffer))
    return str(program.graph)


def exported_strictly(model: nn.Module, *_: Any) -> Any:
    return str(torch.export.export(model, (X,), strict=True).graph)


def symbolic(model: nn.Module, *_: Any) -> Any:
    graph = torch.fx.symbolic_trace(model)
    return graph.code, graph(X), attributes(graph)


def symbolic_container(model: nn.Module, *_: Any) -> Any:
    graph = torch.fx.symbolic_trace(nn.Sequential(model))
    return graph.code, graph(X)


def operations_of_a_graph(model: nn.Module, *_: Any) -> Any:
    return make_fx(model)(X).code


def deep_copy(model: nn.Module, *_: Any) -> Any:
    copied = copy.deepcopy(model)
    return attributes(copied), copied(X), torch.jit.script(copied).code


def deep_copy_of_all(*objects: Any) -> Any:
    model, optimizer, loss = copy.deepcopy(objects)
    return (
        attributes(model),
        attributes(loss),
        optimizer._optimizer_step_post_hooks,
        optimizer._optimizer_step_pre_hooks,
    )


def shallow_copy(model: nn.Module, *_: Any) -> Any:
    copied = copy.copy(model)
    return attributes(copied), copied(X)


def pickled(*objects: Any) -> Any:
    content = pickle.dumps(objects)
    assert b"autotrainer" not in content.replace(__name__.encode(), b"")
    model, optimizer, loss = pickle.loads(content)
    return len(content), attributes(model), attributes(loss), model(X), sorted(vars(optimizer))


def saved_and_loaded(*objects: Any) -> Any:
    content = saved(lambda buffer: torch.save(objects, buffer))
    model, _, loss = torch.load(io.BytesIO(content), weights_only=False)
    return attributes(model), attributes(loss), loss(model(X), Y)


def state_dicts(model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module) -> Any:
    return model.state_dict(), list(optimizer.state_dict()), loss.state_dict()


def compiled(model: nn.Module, *_: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(copy.deepcopy(model), backend="eager")(X)


def called_with_other_weights(model: nn.Module, *_: Any) -> Any:
    return functional_call(model, {name: 2 * p.detach() for name, p in model.named_parameters()}, (X,))


def gradients_per_sample(model: nn.Module, optimizer: Any, loss: nn.Module) -> Any:
    model.eval()
    weights, buffers = {name: p.detach() for name, p in model.named_parameters()}, dict(model.named_buffers())

    def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, (weights, buffers), (x[None],)), y[None])

    gradients = vmap(grad(loss_of), (None, 0, 0))(weights, X, Y)
    model.train()
    return gradients


def jacobian(model: nn.Module, *_: Any) -> Any:
    model.eval()
    result = jacrev(model)(X), jvp(model, (X,), (X,))
    model.train()
    return result


def hessian_of_the_loss(model: nn.Module, optimizer: Any, loss: nn.Module) -> Any:
    model.eval()
    result = hessian(lambda x: loss(model(x), Y))(X)
    model.train()
    return result


def half_and_back(model: nn.Module, *_: Any) -> Any:
    dtype = str(model.half().first.weight.dtype)
    model.float()
    return dtype


def on_meta(model: nn.Module, *_: Any) -> Any:
    return str(copy.deepcopy(model).to("meta")(X.to("meta")).shape)


def fake(model: nn.Module, *_: Any) -> Any:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return str(model(mode.from_tensor(X)).shape)


def counted_operations(model: nn.Module, optimizer: Any, loss: nn.Module) -> Any:
    with FlopCounterMode(display=False) as counter:
        loss(model(X), Y).backward()
    return counter.get_total_flops()


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Functions(torch.overrides.TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(function, "__name__", str(function)))
        return function(*args, **(kwargs or {}))


def operations_of_a_mode(model: nn.Module, optimizer: Any, loss: nn.Module) -> Any:
    with Operations() as mode:
        loss(model(X), Y).backward()
    return mode.names


def functions_of_a_mode(model: nn.Module, optimizer: Any, loss: nn.Module) -> Any:
    with Functions() as mode:
        loss(model(X), Y).backward()
    return mode.names


def quantized(model: nn.Module, *_: Any) -> Any:
    made = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return str(made), attributes(made)


def averaged(model: nn.Module, *_: Any) -> Any:
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    return attributes(average), average(X)


def data_parallel(model: nn.Module, *_: Any) -> Any:
    return nn.DataParallel(model)(X)


OPERATIONS: tuple[Operation, ...] = (
    scripted,
    scripted_in_a_container,
    scripted_loss,
    frozen_script,
    traced,
    traced_loss,
    exported,
    exported_strictly,
    symbolic,
    symbolic_container,
    operations_of_a_graph,
    deep_copy,
    deep_copy_of_all,
    shallow_copy,
    pickled,
    saved_and_loaded,
    state_dicts,
    compiled,
    called_with_other_weights,
    gradients_per_sample,
    jacobian,
    hessian_of_the_loss,
    half_and_back,
    on_meta,
    fake,
    counted_operations,
    operations_of_a_mode,
    functions_of_a_mode,
    quantized,
    averaged,
    data_parallel,
)
HEAVY = (exported, exported_strictly, jacobian, compiled, fake)
"""Operations that take seconds the first time in a process."""
COPYING = (
    *(scripted, scripted_in_a_container, frozen_script, exported, symbolic, deep_copy, deep_copy_of_all, shallow_copy),
    *(pickled, saved_and_loaded, compiled, on_meta, quantized, averaged, data_parallel),
)
"""Operations that copy, pickle or script a model, to which it matters how its class is copied."""


def plain(value: Any) -> Any:
    """A result without counters of the process, in a form that can be compared."""
    if isinstance(value, Tensor):
        return value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return re.sub(r"\.?___torch_mangle_\d+|_\d+(?=\.)", "", value) if isinstance(value, str) else value


def trained(build: type[nn.Module], operation: Operation, point: int, at: int, *, watched: bool) -> Any:
    """Train, and make something from the objects once.

    Returns:
        What was made, the weights, and the monitor.
    """
    torch.manual_seed(0)
    model, loss_fn = build(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    made: list[Any] = []

    def reach(step: int, here: int) -> None:
        if (step, here) == (at, point):
            made.append(plain(operation(model, optimizer, loss_fn)))

    context: Any = nullcontext()
    if watched:
        context = autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=(), overhead=1.0)
    with context as monitor:
        for step in range(STEPS):
            reach(step, 0)
            optimizer.zero_grad()
            outputs = model(X)
            reach(step, 1)
            loss = loss_fn(outputs, Y)
            reach(step, 2)
            loss.backward()
            reach(step, 3)
            optimizer.step()
            reach(step, 4)
    return made[0], plain(model.state_dict()), monitor


def check(build: type[nn.Module], operation: Operation, point: int, at: int) -> None:
    expected, weights, _ = trained(build, operation, point, at, watched=False)
    made, watched_weights, monitor = trained(build, operation, point, at, watched=True)
    assert made == expected
    assert watched_weights == weights
    assert not monitor._failed
    steps = monitor.history.steps.tolist()
    assert steps[-1] == STEPS - 1
    assert np.isfinite(monitor.history.layer("activation_std")[-1, 0])


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each not in HEAVY], ids=lambda each: each.__name__
)
def test_what_is_made_before_a_sampled_forward_pass(operation: Operation, record_property: Any) -> None:
    record_property("attacks", 1)
    check(Net, operation, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "model"),
    [(each, model) for each in OPERATIONS for model in (MODELS if each in COPYING else ["net"])],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_is_made_at_any_point(
    operation: Operation, model: str, record_property: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for point in range(len(POINTS)):
        check(MODELS[model], operation, point, at=2 * (point % 2))
    due = Sampler.due
    monkeypatch.setattr(Sampler, "due", lambda self, step: step != 2 and due(self, step))
    for point in range(len(POINTS)):
        check(MODELS[model], operation, point, 2)
    record_property("attacks", 2 * len(POINTS))


@pytest.mark.parametrize("model", MODELS)
def test_user_hooks_keep_their_order_when_copied(model: str) -> None:
    calls: list[int] = []
    net = MODELS[model]()
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    with autotrainer.watch(net, torch.optim.SGD(net.parameters(), 0.1), select=()):
        net.register_forward_pre_hook(lambda *_: calls.append(2))
        before = list(net._forward_pre_hooks)
        copy.copy(net)(X)
        copy.deepcopy(net)(X)
        assert calls == [1, 2, 1, 2]
        assert list(net._forward_pre_hooks) == before


def test_model_that_is_scripted_before_each_step_is_watched_without_its_activations() -> None:
    model, loss_fn = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=(), overhead=1.0) as monitor:
        for _ in range(9):
            torch.jit.script(model)
            loss_fn(model(X), Y).backward()
            optimizer.step()
    assert not monitor._failed
    assert np.isfinite(monitor.history.scalar("loss")).all()
    assert (monitor.history.layer("grad_norm")[:, 0] > 0).all()
    assert monitor.history.steps[-1] == 8


def test_functional_transforms_inside_the_model() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(vmap(lambda row: torch.relu(self.part(row)))(x))

    model, loss_fn = Ensemble(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=()) as monitor:
        for _ in range(3):
            loss_fn(model(X), Y).backward()
            optimizer.step()
    assert not monitor._failed
    assert monitor.history.steps.tolist() == [0, 1, 2]
    assert np.isfinite(monitor.history.scalar("loss")).all()
