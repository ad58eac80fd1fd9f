"""The layer that makes the output of a PyTorch model gets another number of units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrainer import edits as e
from autotrainer.backends.pytorch.surgery.model_editor import apply_edits


def plain(units: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, units))


def normalized() -> nn.Module:
    return nn.Sequential(*plain(), nn.BatchNorm1d(2))


def image() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 2), nn.Flatten())


class Branches(nn.Module):
    """Two hidden layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(torch.cat([self.left(x).relu(), self.right(x).relu()], 1))


class Tied(nn.Module):
    """The output layer has the weights of a hidden one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.out = nn.Linear(4, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.out.weight = self.hidden.weight

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.hidden(self.first(x)).relu())


def frozen() -> nn.Module:
    model = plain()
    model[2].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("build", "name", "followers"),
    [(plain, "2", {}), (Branches, "out", {}), (normalized, "2", {"3": 3}), (image, "3", {})],
)
def test_wider_output(managed: Any, build: Callable[[], nn.Module], name: str, followers: dict[str, int]) -> None:
    trained, run = managed.train(build(), e.ResizeOutputLayer(3))
    edit = trained.edits[0]
    assert edit.layers == (name,)
    assert dict(zip(edit.followers, edit.inputs, strict=True)) == followers
    assert trained.predict(managed.x[:5]).shape == (5, 3)
    assert run.context.output_units == 3
    assert math.isfinite(run.ends[-1][2].loss)
    model, _ = apply_edits(trained.edits, build(), None)
    model.load_state_dict(trained.model.state_dict())
    inputs = torch.tensor(managed.x[:5], dtype=torch.float32)
    torch.testing.assert_close(model.eval()(inputs), trained.model.eval()(inputs))


def test_units_that_remain_keep_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 400), nn.ReLU(), nn.Linear(400, 4))
    weight, bias = model[2].weight.detach().clone(), model[2].bias.detach().clone()
    wider, _ = apply_edits((e.ResizeOutputLayer(9),), model, None)
    assert torch.equal(wider[2].weight[:4], weight)
    assert torch.equal(wider[2].bias[:4], bias)
    bound = 1 / math.sqrt(400)  # of the default initialization of a linear layer
    assert 0.9 * bound < float(wider[2].weight[4:].detach().abs().max()) <= bound
    narrower, _ = apply_edits((e.ResizeOutputLayer(2, ("2",)),), wider, None)
    assert torch.equal(narrower[2].weight, weight[:2])


def test_a_single_unit_belongs_to_no_class_alone() -> None:
    model = plain(1)
    before = model[2].weight.detach().clone()
    model, _ = apply_edits((e.ResizeOutputLayer(3),), model, None)
    assert not any(torch.equal(row, before[0]) for row in model[2].weight)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adagrad, {}), (torch.optim.LBFGS, {})],
)
def test_optimizer_forgets_what_it_held_for_the_old_units(kind: Any, options: dict[str, Any]) -> None:
    model = plain()
    optimizer = kind(model.parameters(), lr=0.01, **options)

    def step() -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(torch.ones(3, 4)) - 1).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)

    step()
    first = model[0].weight
    kept = {} if kind is torch.optim.LBFGS else dict(optimizer.state[first])
    model, optimizer = apply_edits((e.ResizeOutputLayer(5),), model, optimizer)
    held = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    assert held == [(8, 4), (8,), (5, 8), (5,)]
    assert all(optimizer.state[first][key] is value for key, value in kept.items()), "that of other layers stays"
    before = model[2].bias.detach().clone()
    step()
    assert not torch.equal(model[2].bias, before)


@pytest.mark.parametrize(
    ("build", "edit", "changes", "says"),
    [
        (plain, e.ResizeOutputLayer(2), {}, "has 2 units already"),
        (plain, e.ResizeOutputLayer(3), {"keep": ("2",)}, "keep='2' protects `2`"),
        (plain, e.ResizeOutputLayer(3, ("0",)), {}, "`0` does not make the output alone"),
        (plain, e.ResizeOutputLayer(3, ("no",)), {}, "not made by a single dense"),
        (frozen, e.ResizeOutputLayer(3), {}, "`2` has frozen parameters"),
        (Tied, e.ResizeOutputLayer(3), {}, "shares weights"),
        (lambda: nn.Sequential(*plain(4), nn.Unflatten(1, (2, 2)), nn.Flatten(2), nn.Flatten()),
         e.ResizeOutputLayer(3), {}, "do not fit"),
        (lambda: nn.Sequential(*plain(), nn.Linear(2, 2), nn.Softmax(-1), nn.Flatten(0), nn.Unflatten(0, (-1, 2))),
         e.ResizeOutputLayer(3), {"loss": lambda out, y: out.mean()}, "another shape"),
        (lambda: plain(1), e.ResizeOutputLayer(3), {"loss": nn.BCEWithLogitsLoss(), "float": True},
         "the loss can't be computed on outputs (2, 3)"),
    ],
)  # fmt: skip
def test_refused_widths_have_a_reason(managed: Any, build: Any, edit: e.Edit, changes: Any, says: str) -> None:
    model = build()
    before = [p.detach().clone() for p in model.parameters()]
    if changes.pop("float", False):
        changes |= {"train": (managed.x, managed.y[:, None] * 1.0), "validation": (managed.x, managed.y[:, None] * 1.0)}
    support = managed.trainer(model, **changes).supports(edit)
    assert not support
    assert says in support.reason
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_other_edits_are_judged_with_the_new_output(managed: Any) -> None:
    y = (managed.x[:, :1] > 0).astype(np.float64) + (managed.x[:, 1:2] > 0)
    model = nn.Sequential(*plain(1), nn.Sigmoid())
    trainer = managed.trainer(
        model,
        train=(managed.x, y),
        validation=(managed.x, y),
        loss=nn.BCELoss(),
        optimizer=lambda p: torch.optim.SGD(p, 0.1),
    )
    head = (e.SetOutputActivation("softmax"), e.SetLoss("cross_entropy", "probabilities"))
    assert "softmax over one unit" in trainer.supports(head[0]).reason
    assert trainer.supports_together((e.ResizeOutputLayer(3), *head))
    assert "loss can't be computed" in trainer.supports_together((e.ResizeOutputLayer(3), head[0])).reason
    trained, _ = managed.train(
        model, e.ResizeOutputLayer(3), *head, train=(managed.x, y), validation=(managed.x, y), loss=nn.BCELoss()
    )
    evaluation = trained.evaluate(managed.request(model, validation=(managed.x, y)).validation)
    assert math.isnan(evaluation.loss), "the original loss takes a single column"
    assert math.isfinite(evaluation.training_loss)
    np.testing.assert_allclose(trained.predict(managed.x[:9]).sum(axis=1), 1, rtol=1e-5)
