"""Findings of a PyTorch training point to the user's file: here to this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.backends.pytorch.watching.source_lines import SourceLines

HERE = Path(__file__)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)  # inner of the block
        self.body = nn.Sequential(
            nn.Linear(4, 6),
            nn.Tanh(),
            nn.Linear(6, 4),  # last of the block
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.inner(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.head: nn.Module = nn.Linear(4, 1)  # head of the net

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))  # type: ignore[no-any-return]


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 9),
        nn.ReLU(),  # activation of the sequence
        nn.Linear(9, 1),  # output of the sequence
        nn.ReLU(),  # end of the sequence
    )


def line(mark: str) -> int:
    return next(i for i, text in enumerate(HERE.read_text().splitlines(), 1) if text.endswith(f"# {mark}"))


@pytest.mark.parametrize(
    ("model", "layer", "mark"),
    [
        (Net(), "block.inner", "inner of the block"),
        (Net(), "block.body.2", "last of the block"),
        (Net(), "head", "head of the net"),
        (sequence(), "1", "activation of the sequence"),
        (sequence(), "2", "output of the sequence"),
    ],
)
def test_a_layer_is_found_where_it_is_made(model: nn.Module, layer: str, mark: str) -> None:
    found = SourceLines(model).locate("layer", layer, managed=False)

    assert found.endswith(f"{HERE.name}:{line(mark)}")


def test_unknown_source_lines_are_empty() -> None:
    sources = SourceLines(nn.ModuleList([nn.Linear(2, 2) for _ in range(3)]))
    assert sources.locate("layer", "1", managed=False) == ""
    assert sources.locate("layer", "no.such.layer", managed=False) == ""
    assert sources.locate("loss", None, managed=False) == ""


def test_calls_of_loss_and_step_are_located() -> None:
    torch.manual_seed(0)
    model, loss_fn = sequence(), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(64, 4)
    y = (x[:, :1] > 0).float()

    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=["AT401", "AT404"], epochs=1) as monitor:
        for _ in range(30):
            loss = loss_fn(model(x), y)  # the call of the loss
            loss.backward()
            optimizer.step()  # the step
        observer = monitor._observer
        assert observer is not None
        assert observer.place("loss", None).endswith(f":{line('the call of the loss')}")  # type: ignore[attr-defined]
        places = {finding.problem: finding.place for finding in monitor.findings}

    assert places["missing_zero_grad"].endswith(f"{HERE.name}:{line('the step')}")
    if "improper_output_activation" in places:
        assert places["improper_output_activation"].endswith(f"{HERE.name}:{line('end of the sequence')}")


def test_loss_of_a_managed_training_is_an_argument_of_the_call() -> None:
    model = sequence()
    x = torch.randn(64, 4)
    result = autotrainer.fit(
        model,
        (x, (x[:, :1] > 0).float()),
        loss=nn.BCEWithLogitsLoss(),  # the loss of the call
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        epochs=1,
        repair=False,
        progress=False,
    )
    assert result.status in ("healthy", "unrepaired")
    assert SourceLines(model).locate("loss", None, managed=True).endswith(f":{line('the loss of the call')}")


class Classifier(nn.Module):
    def __init__(self, *, applies: bool) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        self.applies = applies

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.hidden(x))
        if not self.applies:
            return self.out(x)  # type: ignore[no-any-return]
        return torch.softmax(self.out(x), dim=0)  # the softmax of the model


def train(model: nn.Module, loss_fn: nn.Module, x: Tensor, y: Tensor) -> None:
    outputs = model(x)
    shown = outputs.softmax(1)
    assert len(shown) == len(y)
    loss_fn(outputs, y).backward()


def train_on_probabilities(model: nn.Module, loss_fn: nn.Module, x: Tensor, y: Tensor) -> None:
    outputs = model(x).softmax(1)  # the softmax before the loss
    loss_fn(outputs, y).backward()


@pytest.mark.parametrize(
    ("applies", "mark"), [(True, "the softmax of the model"), (False, "the softmax before the loss")]
)
def test_output_activation_is_located_where_it_is_called(applies: bool, mark: str) -> None:
    torch.manual_seed(0)
    model, loss_fn = Classifier(applies=applies), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 4), torch.randint(3, (32,))
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=["AT401"]) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            (train if applies else train_on_probabilities)(model, loss_fn, x, y)
            optimizer.step()
        place = monitor._observer.place("output", "out")  # type: ignore[union-attr]
    assert place.endswith(f"{HERE.name}:{line(mark)}")


def test_optimizer_and_modes_are_located() -> None:
    model = sequence()
    optimizer = torch.optim.RMSprop(model.parameters())  # the only one of its kind
    loss_fn, x, y = nn.MSELoss(), torch.randn(8, 4), torch.zeros(8, 1)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=[]) as monitor:
        loss_fn(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            loss_fn(model(x), y)  # an evaluation
        evaluated = monitor._observer.place("mode", None)  # type: ignore[union-attr]
        model.eval()  # the change of the mode
        changed = monitor._observer.place("mode", None)  # type: ignore[union-attr]
        created = monitor._observer.place("optimizer", None)  # type: ignore[union-attr]
    marks = ("an evaluation", "the change of the mode", "the only one of its kind")
    assert [place.rpartition(":")[2] for place in (evaluated, changed, created)] == [str(line(mark)) for mark in marks]
