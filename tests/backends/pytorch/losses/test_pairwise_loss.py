"""Losses that compare every output of a batch with every target are recognized by their graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.backends.pytorch.losses.pairwise_loss import multiplies_outputs, pairwise_rows

torch.set_num_threads(1)

ROWS = 5
LAYER = nn.Linear(3, 1)
OUTPUT = LAYER(torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)))  # (5, 1)
FLAT = torch.linspace(0.1, 0.9, ROWS)  # (5,)
COLUMN = FLAT[:, None]
CHANCE = torch.sigmoid(OUTPUT)

PAIRWISE: dict[str, Callable[[], Tensor]] = {
    "squared error": lambda: ((OUTPUT - FLAT) ** 2).mean(),
    "its root": lambda: torch.sqrt(((FLAT - OUTPUT) ** 2).sum() / ROWS),
    "squeezed outputs": lambda: (OUTPUT.squeeze(1) - COLUMN).abs().mean(),
    "a function that expands": lambda: F.smooth_l1_loss(OUTPUT, FLAT.clone()),
    "binary cross-entropy": lambda: -(FLAT * CHANCE.log() + (1 - FLAT) * (1 - CHANCE).log()).mean(),
    "log cosh": lambda: torch.log(torch.cosh(OUTPUT - FLAT)).mean(),
    "policy gradient": lambda: -(F.logsigmoid(OUTPUT).squeeze(1) * COLUMN).mean(),
    "where": lambda: 10 * torch.where(FLAT > 0.5, OUTPUT, -OUTPUT).mean(),
}
BY_ROW: dict[str, Callable[[], Tensor]] = {
    "the same shape": lambda: ((OUTPUT - COLUMN) ** 2).mean(),
    "a function, the same shape": lambda: F.mse_loss(OUTPUT, COLUMN),
    "distances of outputs": lambda: ((OUTPUT - OUTPUT.T) ** 2).mean(),
    "energy distance": lambda: (OUTPUT - FLAT).abs().mean() - 0.5 * (OUTPUT - OUTPUT.T).abs().mean(),
    "nearest target": lambda: ((OUTPUT - FLAT) ** 2).min(1).values.mean(),
    "as many columns as rows": lambda: (
        (OUTPUT.expand(ROWS, ROWS).matmul(torch.eye(ROWS)) - torch.eye(ROWS)) ** 2
    ).mean(),
    "another term": lambda: ((OUTPUT - FLAT) ** 2).mean() + LAYER.weight.square().sum(),
    "parameters": lambda: ((LAYER.weight.T - torch.ones(3)) ** 2).mean(),
    "a scalar": lambda: OUTPUT.mean(),
    "no graph": lambda: FLAT.mean(),
}


@pytest.mark.parametrize(
    ("loss", "rows"),
    [
        *(pytest.param(loss, ROWS, id=name) for name, loss in PAIRWISE.items()),
        *(pytest.param(loss, None, id=name) for name, loss in BY_ROW.items()),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_pairs_are_proven_by_the_graph(loss: Callable[[], Tensor], rows: int | None) -> None:
    assert pairwise_rows(loss()) == rows


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_a_loss_that_the_loop_computes(logged: bool, flat: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 3), torch.randn(64)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, select=["target_mismatch"]) as monitor:
        for _ in range(6):
            output = model(x).squeeze(1) if flat else model(x)
            loss = ((output - y) ** 2).mean()
            optimizer.zero_grad()
            if logged:
                monitor.log(loss=loss)
            loss.backward()
            optimizer.step()
    assert [finding.problem for finding in monitor.findings] == ([] if flat else ["target_mismatch"])


WEIGHTS = torch.linspace(-1, 1, 3 * ROWS).reshape(ROWS, 3).requires_grad_()
TRANSITION = torch.eye(3)
CLASSES = torch.tensor([0, 1, 2, 0, 1])
SAME = (CLASSES[:, None] == CLASSES).float()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param(lambda e: ((e @ e.T - SAME) ** 2).mean(), True, id="products of pairs"),
        pytest.param(lambda e: (torch.cdist(e, e) * SAME).mean(), True, id="distances of pairs"),
        pytest.param(lambda e: F.cross_entropy(F.normalize(e) @ WEIGHTS.T, CLASSES), True, id="weights of its own"),
        pytest.param(lambda e: F.cross_entropy(e, CLASSES), False, id="scores of classes"),
        pytest.param(
            lambda e: F.nll_loss((e.softmax(1) @ TRANSITION).log(), CLASSES), False, id="constant transitions of labels"
        ),
        pytest.param(lambda e: ((e - F.one_hot(CLASSES, 3)) ** 2).mean(), False, id="values"),
        pytest.param(lambda e: 0 * e.sum(), False, id="no pair"),
    ],
)
def test_embeddings_are_proven_by_the_graph(loss: Callable[[Tensor], Tensor], expected: bool) -> None:
    hidden = nn.Linear(3, 3)(torch.ones(ROWS, 3))
    outputs = nn.Linear(3, 3)(hidden)  # its product is the model's, not the loss's
    assert multiplies_outputs(loss(outputs), [outputs]) is expected


class PairLoss(nn.Module):
    """Brings embeddings of one class together, and those of different classes apart up to a margin."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        unit = F.normalize(embeddings)
        same = labels[:, None] == labels
        near = unit @ unit.T
        losses = torch.where(same, F.relu(0.9 - near), F.relu(near - 0.5))
        lasting = losses[losses > 0]
        return lasting.mean() if len(lasting) else 0 * embeddings.sum()


def test_embeddings_are_not_taken_for_scores_of_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (320,), generator=generator)
    x = 3 * F.one_hot(labels, 8).float() + 0.1 * torch.randn(320, 8, generator=generator)
    torch.manual_seed(0)
    model, loss_fn = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)), PairLoss()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=12, overhead=1) as monitor:
        for _ in range(12):
            for rows in torch.randperm(320, generator=generator).split(32):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), labels[rows]).backward()
                optimizer.step()
    assert [finding.problem for finding in monitor.findings if finding.severity != "info"] == []
