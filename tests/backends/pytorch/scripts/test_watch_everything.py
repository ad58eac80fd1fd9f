"""Trainings of a script that does not use autotrainer: each is watched, and none is changed."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.api.script import Trainings, watched_frameworks
from autotrainer.backends.pytorch.losses.loss_graph import loss_function, outputs_and_targets
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.watching import step_measurement
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)

ROWS, BATCH, STEPS = 96, 16, 24
Script = Callable[[], list[nn.Module]]
Seen = list[tuple[str, Monitor]]


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, 8)
    return x, (x[:, 0] > x[:, 1]).long()


def batches() -> Iterator[Tensor]:
    for _ in range(STEPS * BATCH // ROWS):
        yield from torch.split(torch.randperm(ROWS), BATCH)


def mlp(inputs: int = 8, outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


def sgd(*modules: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], rate)


def train(model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, loss: Callable[..., Tensor]) -> None:
    x, y = data()
    for rows in batches():
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimizer.step()


def with_module() -> list[nn.Module]:
    net = mlp()
    train(net, sgd(net), nn.CrossEntropyLoss())
    return [net]


def with_function() -> list[nn.Module]:
    net = mlp()
    train(net, sgd(net), F.cross_entropy)
    return [net]


class OwnLoss(nn.Module):
    """A loss of the script's own.

    Args:
        inner: A loss of PyTorch that it calls; None calls a function.
        weight: Factor on the result.
    """

    def __init__(self, inner: nn.Module | None = None, weight: float | None = None) -> None:
        super().__init__()
        self.inner, self.weight = inner, weight

    def forward(self, outputs: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = (self.inner or F.cross_entropy)(outputs.flatten(1), y.flatten())
        return loss if self.weight is None else self.weight * loss


def with_own_module() -> list[nn.Module]:
    net = mlp()
    train(net, sgd(net), OwnLoss())
    return [net]


def with_own_module_around_another() -> list[nn.Module]:
    net = mlp()
    train(net, sgd(net), OwnLoss(nn.CrossEntropyLoss()))
    return [net]


def with_own_module_and_a_weight() -> list[nn.Module]:
    net = mlp()
    train(net, sgd(net), OwnLoss(nn.CrossEntropyLoss(), 0.5))
    return [net]


def with_own_module_and_a_penalty() -> list[nn.Module]:
    net, loss_fn = mlp(), OwnLoss()
    train(net, sgd(net), lambda outputs, y: loss_fn(outputs, y) + 1e-3 * net[0].weight.square().sum())
    return [net]


def with_module_made_each_step() -> list[nn.Module]:
    net = mlp()
    train(net, sgd(net), lambda outputs, y: nn.CrossEntropyLoss()(outputs, y))
    return [net]


def with_two_losses() -> list[nn.Module]:
    net, first, second = mlp(), nn.CrossEntropyLoss(), nn.MSELoss()
    train(net, sgd(net), lambda outputs, y: first(outputs, y) + second(outputs, F.one_hot(y, 2).float()))
    return [net]


def with_a_closure() -> list[nn.Module]:
    net, loss_fn = mlp(), nn.CrossEntropyLoss()
    optimizer = torch.optim.LBFGS(net.parameters(), 0.1, max_iter=3)
    x, y = data()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = loss_fn(net(x), y)
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    return [net]


def with_a_scaler() -> list[nn.Module]:
    net = mlp()
    optimizer, scaler = sgd(net), torch.amp.GradScaler("cpu")
    x, y = data()
    for rows in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(net(x[rows]), y[rows])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return [net]


def with_accumulation_and_schedule() -> list[nn.Module]:
    net, loss_fn = mlp(), nn.CrossEntropyLoss()
    optimizer = sgd(net)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    x, y = data()
    for rows in batches():
        for part in rows.split(4):
            (loss_fn(net(x[part]), y[part]) / 4).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return [net]


def with_a_loader_and_a_class() -> list[nn.Module]:
    class Trainer:
        def __init__(self) -> None:
            self.model, self.loss_fn = mlp(), nn.CrossEntropyLoss()
            self.optimizer = torch.optim.Adam(self.model.parameters())

        def step(self, x: Tensor, y: Tensor) -> float:
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            return loss.item()

    trainer = Trainer()
    for _ in range(STEPS * BATCH // ROWS):
        for x, y in DataLoader(TensorDataset(*data()), BATCH, shuffle=True):
            trainer.step(x, y)
    return [trainer.model]


def adversarial() -> list[nn.Module]:
    generator, critic, loss_fn = mlp(4, 8), mlp(8, 1), nn.BCEWithLogitsLoss()
    of_generator, of_critic = sgd(generator), sgd(critic)
    x, _ = data()
    for rows in batches():
        fake = generator(torch.randn(BATCH, 4))
        of_critic.zero_grad()
        loss_fn(critic(x[rows]), torch.ones(BATCH, 1)).backward()
        loss_fn(critic(fake.detach()), torch.zeros(BATCH, 1)).backward()
        of_critic.step()
        of_generator.zero_grad()
        loss_fn(critic(fake), torch.ones(BATCH, 1)).backward()
        of_generator.step()
    return [generator, critic]


def several_models() -> list[nn.Module]:
    return [with_module()[0] for _ in range(3)]


def several_optimizers() -> list[nn.Module]:
    net, loss_fn = mlp(), nn.CrossEntropyLoss()
    one, other = sgd(net[0]), torch.optim.Adam(net[2].parameters())
    x, y = data()
    for rows in batches():
        one.zero_grad()
        other.zero_grad()
        loss_fn(net(x[rows]), y[rows]).backward()
        one.step()
        other.step()
    return [net]


def in_parts() -> list[nn.Module]:
    encoder, head = mlp(8, 16), nn.Linear(16, 2)
    train(lambda x: head(encoder(x)), sgd(encoder, head), nn.CrossEntropyLoss())
    return [encoder, head]


class Coder(nn.Module):
    """A model that is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 4), nn.Linear(4, 2)


def by_methods() -> list[nn.Module]:
    net = Coder()
    train(lambda x: net.decode(net.encode(x)), sgd(net), nn.CrossEntropyLoss())
    return [net]


def run(script: Script, **options: Any) -> tuple[list[nn.Module], Seen]:
    torch.manual_seed(0)
    trainings = Trainings(options)
    with watched_frameworks(trainings):
        return script(), trainings.close(finished=True)


def plainly(script: Script) -> list[nn.Module]:
    torch.manual_seed(0)
    return script()


@pytest.mark.parametrize(
    ("script", "models", "losses"),
    [
        (with_module, ["Sequential"], ["CrossEntropyLoss"]),
        (with_function, ["Sequential"], ["nll_loss"]),
        (with_own_module, ["Sequential"], ["OwnLoss"]),
        (with_own_module_around_another, ["Sequential"], ["CrossEntropyLoss"]),
        (with_own_module_and_a_weight, ["Sequential"], ["OwnLoss"]),
        (with_own_module_and_a_penalty, ["Sequential"], ["OwnLoss"]),
        (with_module_made_each_step, ["Sequential"], ["nll_loss"]),
        (with_two_losses, ["Sequential"], ["none"]),
        (with_a_closure, ["Sequential"], ["CrossEntropyLoss"]),
        (with_a_scaler, ["Sequential"], ["nll_loss"]),
        (with_accumulation_and_schedule, ["Sequential"], ["CrossEntropyLoss"]),
        (with_a_loader_and_a_class, ["Sequential"], ["CrossEntropyLoss"]),
        (adversarial, ["ModuleList"], ["none"]),
        (several_models, ["Sequential"] * 3, ["CrossEntropyLoss"] * 3),
        (several_optimizers, ["Sequential"], ["CrossEntropyLoss"]),
        (in_parts, ["ModuleList"], ["CrossEntropyLoss"]),
        (by_methods, ["Coder"], ["CrossEntropyLoss"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_training_is_watched_and_none_is_changed(script: Script, models: list[str], losses: list[str]) -> None:
    expected = plainly(script)
    drawn = torch.rand(3)
    found, seen = run(script)
    assert torch.equal(torch.rand(3), drawn)
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert [name for name, _ in seen] == models
    assert [monitor.context.loss.name for _, monitor in seen] == losses
    for _, monitor in seen:
        first = int(script is by_methods)  # to see that the model itself is never called takes one
        assert monitor.history.steps[:3].tolist() == [first, first + 1, first + 2]
        assert monitor.history.step == STEPS - 1
        assert script is adversarial or len(monitor.history.losses[0]) >= 15
        assert monitor.closed
    weights = sum(p.numel() for module in found for p in module.parameters())
    assert sum(layer.parameters for _, monitor in seen for layer in monitor.context.layers) == weights


def test_scaled_loss_is_reported_unscaled() -> None:
    ((_, monitor),) = run(with_a_scaler)[1]
    assert 0.3 < monitor.history.losses[1].max() < 2  # scaled by 65,536 it trains


class Net(nn.Module):
    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 2)
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(F.relu(self.body(x)))
        return outputs.softmax(1) if self.softmax else outputs


def forgotten() -> list[nn.Module]:
    net = Net()
    train(net, sgd(net.head), F.cross_entropy)
    return [net]


def twice_softmax() -> list[nn.Module]:
    net = Net(softmax=True)
    train(net, sgd(net), F.cross_entropy)
    return [net]


def too_fast() -> list[nn.Module]:
    net = Net()
    train(net, sgd(net, rate=1e4), nn.CrossEntropyLoss())
    return [net]


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (forgotten, "parameters_not_optimized"),
        (twice_softmax, "improper_output_activation"),
        (too_fast, "learning_rate_too_high"),
    ],
)
def test_problems_are_found_in_the_whole_model(script: Script, problem: str) -> None:
    ((name, monitor),) = run(script, steps=STEPS)[1]
    assert name == "Net"
    assert problem in {finding.problem for finding in monitor.findings}
    assert not {f.problem for f in monitor.findings} & {"abnormal_initial_loss"}  # of a step that nobody saw


def test_trainings_that_use_autotrainer_are_not_watched_again() -> None:
    def script() -> list[nn.Module]:
        watched, loss_fn = mlp(), nn.CrossEntropyLoss()
        optimizer = sgd(watched)
        with autotrainer.watch(watched, optimizer, loss_fn=loss_fn) as monitor:
            train(watched, optimizer, loss_fn)
        assert monitor.history.steps[0] == 0
        x, y = data()
        autotrainer.fit(
            mlp(), (x, y), loss=loss_fn, optimizer=lambda p: torch.optim.SGD(p, 0.1), epochs=2, repair=False,
            progress=False,
        )  # fmt: skip
        model = mlp()
        loop = autotrainer.Loop(
            model, sgd(model), loss_fn, DataLoader(TensorDataset(x, y), BATCH), epochs=1, budget=1.0
        )
        for _ in loop:
            for inputs, targets in loop.train_loader:
                loop.optimizer.zero_grad()
                loop.loss_fn(loop.model(inputs), targets).backward()
                loop.optimizer.step()
            loop.end_epoch(val_loss=1.0)
        return []

    assert run(script)[1] == []


def test_parameters_without_a_module_are_not_watched() -> None:
    def script() -> list[nn.Module]:
        weights = torch.zeros(8, 2, requires_grad=True)
        train(lambda x: x @ weights, torch.optim.SGD([weights], 0.1), F.cross_entropy)
        return []

    assert run(script)[1] == []


def test_copied_optimizer_is_watched_from_its_third_step_on() -> None:
    def script() -> list[nn.Module]:
        net = mlp()
        train(net, sgd(net), nn.CrossEntropyLoss())
        net, optimizer = copy.deepcopy((net, sgd(net)))
        for _ in range(110):  # nobody waits any more for the optimizer that was copied
            train(net, optimizer, nn.CrossEntropyLoss())
        return [net]

    assert len(run(script)[1]) == 2


def with_a_new_optimizer_each_epoch() -> list[nn.Module]:
    net = mlp()
    for _ in range(3):
        train(net, sgd(net), nn.CrossEntropyLoss())
    return [net]


def with_a_frozen_part_later() -> list[nn.Module]:
    net = Net()
    train(net, sgd(net), F.cross_entropy)
    net.body.requires_grad_(False)
    train(net, sgd(net.head), F.cross_entropy)
    return [net]


@pytest.mark.parametrize(("script", "parts"), [(with_a_new_optimizer_each_epoch, 3), (with_a_frozen_part_later, 2)])
def test_new_optimizer_of_a_model_continues_its_training(script: Script, parts: int) -> None:
    ((_, monitor),) = run(script)[1]
    assert monitor.history.step == parts * STEPS - 1
    assert monitor.history.losses[0].max() == parts * STEPS - 1


def with_an_unused_optimizer() -> list[nn.Module]:
    net = mlp()
    optimizers = {"adam": torch.optim.Adam(net.parameters()), "sgd": sgd(net)}
    train(net, optimizers["sgd"], nn.CrossEntropyLoss())
    return [net]


def test_optimizer_that_steps_counts_not_the_one_constructed_first() -> None:
    ((_, monitor),) = run(with_an_unused_optimizer)[1]
    assert (monitor.history.step, monitor.context.optimizer.name) == (STEPS - 1, "sgd")


def test_optimizers_may_step_in_another_order_than_they_were_constructed() -> None:
    def script() -> list[nn.Module]:
        net = mlp()
        head, whole = sgd(net[2]), sgd(net)
        x, y = data()
        for rows in batches():
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            whole.step()
            head.step()
        return [net]

    ((name, monitor),) = run(script)[1]
    assert (name, monitor.history.step) == ("Sequential", STEPS - 1)
    assert monitor.context.optimizer.several


def test_two_optimizers_of_the_same_parameters_are_measured() -> None:
    net = mlp()
    adam, both = torch.optim.Adam(net.parameters()), sgd(net)
    with autotrainer.watch(net, [adam, both], select=()) as monitor:
        for optimizer in (adam, both) * 3:
            F.cross_entropy(net(torch.randn(BATCH, 8)), torch.zeros(BATCH, dtype=torch.long)).backward()
            optimizer.step()
    assert not monitor._failed


def test_calls_are_not_patched_for_an_optimizer_that_never_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotrainer.backends.pytorch.scripts.watch_everything._PATIENCE", 5)
    before, during = nn.Module.__call__, []

    def script() -> list[nn.Module]:
        net, later = mlp(), mlp()
        unused = sgd(later)
        train(net, sgd(net), nn.CrossEntropyLoss())
        during.append(nn.Module.__call__)
        train(later, unused, nn.CrossEntropyLoss())
        return [net]

    first, second = (monitor for _, monitor in run(script)[1])
    assert during == [before]
    assert (first.history.step, second.history.step) == (STEPS - 1, STEPS - 2)  # the step that shows it is not counted


def encoder_and_decoder() -> list[nn.Module]:
    encoder, decoder = mlp(8, 4), mlp(4, 2)
    optimizers, loss_fn = (sgd(encoder), sgd(decoder)), nn.CrossEntropyLoss()
    x, y = data()
    for rows in batches():
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_fn(decoder(encoder(x[rows])), y[rows]).backward()
        for optimizer in optimizers:
            optimizer.step()
    return [encoder, decoder]


def test_models_with_a_common_loss_are_one_training_that_has_a_loss() -> None:
    ((name, monitor),) = run(encoder_and_decoder)[1]
    assert (name, monitor.context.loss.name) == ("ModuleList", "CrossEntropyLoss")
    assert len(monitor.history.losses[0]) >= 15
    assert monitor.history.step == STEPS - 1


def test_losses_of_adversaries_are_not_judged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_measurement, "compiled_frames", lambda: 0)  # those of other tests in this process
    with caplog.at_level(logging.WARNING, "autotrainer"):
        ((_, monitor),) = run(adversarial, log_dir=tmp_path)[1]
    assert not len(monitor.history.losses[0])
    assert monitor.report().run["unmeasured"] == ["loss", "targets"]
    assert sum("do not measure progress" in message for message in caplog.messages) == 1
    assert len(list(tmp_path.iterdir())) == 1  # none of the trainings that it was taken for at first


def test_loader_that_starts_before_the_training_is_found_counts() -> None:
    ((_, monitor),) = run(with_a_loader_and_a_class)[1]
    assert monitor.history.epoch_ends.tolist() == [5, 11, 17, 23]


def test_patches_and_hooks_are_removed() -> None:
    def patched() -> list[Any]:
        functions = torch.autograd.backward, torch.amp.GradScaler.scale, torch.optim.Optimizer.__init__
        return [*functions, nn.Module.__call__, nn.Module.train, DataLoader.__iter__]

    before = patched()
    models, _ = run(with_module)
    assert patched() == before
    assert "__call__" not in vars(_Loss)
    assert not optimizers._global_optimizer_post_hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in models[0].modules())
    gone = weakref.ref(models.pop())
    gc.collect()
    assert gone() is None


def test_ended_trainings_are_released() -> None:
    models: list[weakref.ref[nn.Module]] = []

    def script() -> list[nn.Module]:
        models.extend(weakref.ref(with_module()[0]) for _ in range(4))
        gc.collect()
        assert [model() is None for model in models[:2]] == [True, True]
        return []

    assert len(run(script)[1]) == 4


def test_search_over_many_models_is_watched_in_part(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autotrainer"):
        seen = run(lambda: [with_module()[0] for _ in range(23)])[1]
    assert len(seen) == 20
    assert sum("20 trainings of this script have been watched" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("where", ["find_model", "loss_parameters", "outputs_and_targets", "loss_function"])
def test_failures_do_not_reach_the_script(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = plainly(with_function)

    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(f"autotrainer.backends.pytorch.scripts.watch_everything.{where}", broken)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        found, _ = run(with_function)
    assert all(torch.equal(a, b) for a, b in zip(expected[0].parameters(), found[0].parameters(), strict=True))
    assert sum("broken" in message for message in caplog.messages) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_loss_is_compiled_once_as_one_graph() -> None:
    compiled = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    def script() -> list[nn.Module]:
        net, loss_fn = mlp(), nn.CrossEntropyLoss()
        step = torch.compile(lambda x, y: loss_fn(x, y), backend=backend, fullgraph=True)
        train(net, sgd(net), step)
        return [net]

    seen = run(script)[1]
    assert compiled == 1
    assert len(seen) == 1


@pytest.mark.filterwarnings("ignore")  # those of torch, while it compiles
def test_compiled_step_is_watched() -> None:
    def script() -> list[nn.Module]:
        net, loss_fn = mlp(), nn.CrossEntropyLoss()
        optimizer = sgd(net)
        x, y = data()

        @torch.compile(backend="eager")
        def step() -> None:
            optimizer.zero_grad()
            loss_fn(net(x), y).backward()
            optimizer.step()

        for _ in range(STEPS):
            step()
        return [net]

    expected = plainly(script)
    found, seen = run(script)
    assert all(torch.equal(a, b) for a, b in zip(expected[0].parameters(), found[0].parameters(), strict=True))
    assert [monitor.history.step for _, monitor in seen] == [STEPS - 1]


@pytest.mark.parametrize(
    ("loss", "name", "reduction", "weighted"),
    [
        (lambda o, y: F.cross_entropy(o, y), "nll_loss", "mean", False),
        (lambda o, y: F.cross_entropy(o, y, torch.tensor([1.0, 2.0]), reduction="sum"), "nll_loss", "sum", True),
        (lambda o, y: F.cross_entropy(o.relu(), y), "cross_entropy", "mean", False),
        (lambda o, y: F.mse_loss(o[:, 0], y.float()), "mse_loss", "mean", False),
        (
            lambda o, y: F.binary_cross_entropy_with_logits(o[:, 0], y.float()),
            "binary_cross_entropy_with_logits",
            "mean",
            False,
        ),
        (lambda o, y: F.binary_cross_entropy(o[:, 0].sigmoid(), y.float()), "binary_cross_entropy", "mean", False),
        (lambda o, y: (o[:, 0] - y).pow(2).mean(), None, "", False),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_loss_function_is_read_from_the_graph(
    loss: Callable[..., Tensor], name: str | None, reduction: str, weighted: bool, after: bool
) -> None:
    from autotrainer.backends.pytorch.model.loss_kinds import loss_info

    torch.manual_seed(0)
    outputs, targets = nn.Linear(4, 2)(torch.randn(6, 4)), torch.tensor([0, 1, 1, 0, 1, 0])
    value = loss(outputs, targets)
    if name is not None:
        seen = outputs_and_targets(value)
        assert seen[0] is not None
        assert seen[1] is not None
        assert torch.equal(seen[1].long(), targets)
    else:
        assert outputs_and_targets(value) == (None, None)
    if after:
        value.backward()
    function = loss_function(value)
    if name is None:
        assert function is None
    else:
        info = loss_info(function)
        assert (info.name, info.reduction, info.weighted) == (name, reduction, weighted)


def test_a_loss_divided_by_one_batch_is_not_weighted() -> None:
    logits, targets = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    loss = F.cross_entropy(logits, targets)
    weighted = [loss_info(loss_function(each)).weighted for each in (loss, loss / 1, 1.0 * loss, loss / 2)]
    assert weighted == [False, False, False, True]


class PositiveNoise(nn.Module):
    """A likelihood whose noise is a parameter that an activation keeps positive."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.raw, self.positive = mlp(outputs=1), nn.Parameter(torch.tensor(0.0)), nn.Softplus()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        noise = self.positive(self.raw)
        gap: Tensor = (self.net(x)[:, 0] - y) ** 2 / noise
        return 0.5 * (gap + noise.log()).mean() + 7


def likelihood() -> list[nn.Module]:
    x, y = data()
    model = PositiveNoise()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for rows in batches():
        optimizer.zero_grad()
        model(x[rows], y[rows].float()).backward()
        optimizer.step()
    return [model]


def test_an_activation_of_a_parameter_is_not_taken_for_the_loss() -> None:
    _, seen = run(likelihood)
    ((_, monitor),) = seen
    assert monitor.context.loss.name != "Softplus"
    assert monitor.history.losses[1].min() > 5


def one_optimizer_a_parameter() -> list[nn.Module]:
    x, y = data()
    model = mlp()
    optimizers = dict[nn.Parameter, torch.optim.Optimizer]()
    for rows in batches():
        outputs = model(x[rows]).log_softmax(1)  # its first loss is only read when the graph is gone
        (-outputs[torch.arange(len(rows)), y[rows]]).mean().mul(outputs.detach().new_tensor(2.0)).backward()
        for parameter in model.parameters():
            if parameter not in optimizers:
                optimizers[parameter] = torch.optim.SGD([parameter], 0.1)
            optimizers[parameter].step()
            parameter.grad = None
    return [model]


def test_optimizers_that_are_made_one_a_parameter_belong_to_one_training() -> None:
    _, seen = run(one_optimizer_a_parameter)
    ((_, monitor),) = seen
    assert sum(layer.unowned for layer in monitor.context.layers) == 0
    assert monitor.history.step == STEPS - 1
    assert len(monitor.history.losses[1]) > 1
    assert "parameters_not_optimized" not in [finding.problem for finding in monitor.findings]
