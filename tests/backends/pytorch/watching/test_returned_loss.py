"""Losses that a model computes and returns itself, wrapped models and optimizers, and what was not observed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.errors import InputError


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mapping": lambda loss, logits: {"loss": loss, "logits": logits},
    "attributes": Output,
    "tuple": lambda loss, logits: (loss, logits),
}


class Model(nn.Module):
    """A classifier of time steps that returns its loss."""

    def __init__(self, kind: str = "mapping") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head, self.kind = nn.Linear(4, 8), nn.Linear(8, 3), kind

    def forward(self, x: Tensor, labels: Tensor | None = None, num_items_in_batch: Any = None) -> Any:
        logits = self.head(torch.relu(self.hidden(x)))
        if labels is None:
            return logits
        reduction = "mean" if num_items_in_batch is None else "sum"
        loss = F.cross_entropy(logits.reshape(-1, 3), labels.reshape(-1), reduction=reduction)
        return KINDS[self.kind](loss if num_items_in_batch is None else loss / num_items_in_batch, logits)


X = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(1))
Y = (X.sum(dim=-1) > 0).long()


def loss_of(output: Any) -> Tensor:
    if isinstance(output, tuple):
        return output[0]
    return output["loss"] if isinstance(output, dict) else output.loss


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_that_a_model_returns_is_followed(kind: str) -> None:
    model, losses = Model(kind), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with autotrainer.watch(model, optimizer, overhead=0.01) as monitor:
        for step in range(40):
            optimizer.zero_grad()
            loss = loss_of(model(X, labels=Y))
            (loss / 4).backward()
            optimizer.step()
            losses.append(loss.item())
            if step % 10 == 9:
                model.eval()
                with torch.no_grad():
                    model(X, labels=Y)
                model.train()
    history, info = monitor.history, monitor.context.loss
    assert history.losses[0].tolist() == list(range(40))
    assert history.losses[1] == pytest.approx(losses)
    assert (info.name, info.plain, monitor.context.output_activation) == ("cross_entropy", True, "linear")
    assert history.targets.count == Y.numel() * len(history.steps)
    assert history.scalar("loss_factor")[0] == 0.25
    assert history.epoch_names == ("val_loss",)
    assert not model._forward_hooks
    assert "__reduce_ex__" not in vars(model)


def test_losses_of_a_step_add_up_if_they_are_divided_by_all_its_items() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with autotrainer.watch(model, optimizer) as monitor:
        expected = F.cross_entropy(model(X).reshape(-1, 3), Y.reshape(-1)).item()
        for half in (slice(0, 4), slice(4, 8)):
            model(X[half], labels=Y[half], num_items_in_batch=torch.tensor(Y.numel()))["loss"].backward()
        optimizer.step()
    assert monitor.history.losses[1].tolist() == pytest.approx([expected])
    assert monitor.context.loss.plain


def test_a_returned_loss_without_backward_pass_is_not_that_of_the_training() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with autotrainer.watch(model, optimizer) as monitor:
        output = model(X, labels=Y)
        loss = F.mse_loss(output["logits"], torch.zeros_like(output["logits"]))
        loss.backward()
        optimizer.step()
    assert monitor.history.losses[1].tolist() == pytest.approx([loss.item()])
    assert monitor.context.loss.name == "mse_loss"


class OptimizerWrapper(torch.optim.Optimizer):
    """Like that of accelerate: without a constructor of its own, so without step hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        self.optimizer.param_groups = groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step(closure)


class ModuleWrapper(nn.Module):
    """Like that of Fabric."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._forward_module = self._original_module = module

    @property
    def module(self) -> nn.Module:
        return self._original_module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward_module(*args, **kwargs)


def test_wrapped_models_and_optimizers_are_watched() -> None:
    model = ModuleWrapper(Model())
    optimizer = OptimizerWrapper(OptimizerWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    with autotrainer.watch(model, optimizer) as monitor:
        model(X, labels=Y)["loss"].backward()
        optimizer.step()
    assert monitor.history.step == 0
    assert len(monitor.history.losses[0]) == 1
    assert [layer.name for layer in monitor.context.layers] == ["hidden", "head"]


def test_an_optimizer_that_runs_hooks_of_its_own_is_no_wrapper() -> None:
    model = Model()

    class Lookahead(torch.optim.SGD):
        def __init__(self) -> None:
            super().__init__(model.parameters(), lr=0.1)
            self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    optimizer = Lookahead()
    with autotrainer.watch(model, optimizer) as monitor:
        model(X, labels=Y)["loss"].backward()
        optimizer.step()
    assert monitor.history.step == 0


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        ("transformers.trainer", "Trainer", r"huggingface.AutoTrainerCallback\(\)"),
        ("pytorch_lightning.trainer.trainer", "Trainer", r"lightning.AutoTrainer\(\)"),
        ("lightning.fabric.fabric", "Fabric", "Fabric.setup"),
        ("accelerate.accelerator", "Accelerator", "prepare"),
        ("ignite.engine.engine", "Engine", "ignite.AutoTrainer"),
        ("skorch.net", "NeuralNet", "skorch.AutoTrainer"),
    ],
)
def test_owners_of_the_loop_name_their_callback(module: str, name: str, hint: str) -> None:
    owner = type("Custom", (type(name, (), {"__module__": module}),), {})()
    with pytest.raises(InputError, match=hint):
        autotrainer.watch(owner)
    with pytest.raises(InputError, match=hint):
        autotrainer.watch(Model(), owner)


def closing_lines(monitor: autotrainer.Monitor, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor.close()
    [note] = monitor.report().run["notes"]
    assert note in caplog.text
    assert note[:40] in str(monitor.report())
    return str(note)


def test_what_was_not_observed_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    assert "nor a call of the model" in closing_lines(autotrainer.watch(model, optimizer), caplog)

    monitor = autotrainer.watch(model, optimizer)
    model(X, labels=Y)["loss"].backward()
    assert "optimizer.step() is not called" in closing_lines(monitor, caplog)

    monitor = autotrainer.watch(model, optimizer)
    for _ in range(2):
        model(X, labels=Y)["loss"].backward()
        other.step()
    assert "has stepped 2 times: pass the one that is stepped" in closing_lines(monitor, caplog)
    assert not import_module("torch.optim.optimizer")._global_optimizer_post_hooks

    monitor = autotrainer.watch(model, optimizer, loss_fn=nn.CrossEntropyLoss())
    model(X, labels=Y)["loss"].backward()
    optimizer.step()
    assert "(CrossEntropyLoss) was not called" in closing_lines(monitor, caplog)

    monitor = autotrainer.watch(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        monitor.log(loss=model(X, labels=Y)["loss"])
        optimizer.step()
    assert "No gradient was observed" in closing_lines(monitor, caplog)

    monitor = autotrainer.watch(model, [optimizer, other])
    for each in (optimizer, other):
        model(X).sum().backward()
        each.step()
    assert "losses of several optimizers may work against each other" in closing_lines(monitor, caplog)
