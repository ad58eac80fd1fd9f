"""Rows of a batch that a recurrent layer gets as time steps, or mixed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import autotrainer


class Reader(nn.Module):
    """A recurrent layer and an output layer.

    Args:
        lay: Changes the layout before the recurrent layer.
        read: Chooses what the output layer gets.
        batch_first: Whether the recurrent layer takes rows first.
    """

    def __init__(self, lay: Callable[[Tensor], Tensor], read: Callable[[Tensor], Tensor], batch_first: bool) -> None:
        super().__init__()
        self.lay, self.read = lay, read
        self.rnn, self.out = nn.GRU(3, 4, batch_first=batch_first), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.out(self.read(self.rnn(self.lay(x))[0]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("lay", "read", "batch_first", "shape", "kind"),
    [
        pytest.param(lambda x: x, lambda h: h[:, -1], True, (8, 5, 3), None, id="rows first"),
        pytest.param(lambda x: x.transpose(0, 1), lambda h: h[-1], False, (8, 5, 3), None, id="transposed"),
        pytest.param(lambda x: x.flip(0).transpose(0, 1), lambda h: h[-1], False, (8, 5, 3), 2.0, id="other rows"),
        pytest.param(lambda x: x.reshape(5, -1, 3), lambda h: h[-1], False, (8, 5, 3), 2.0, id="reshaped"),
        pytest.param(lambda x: x, lambda h: h[:, -1], False, (8, 5, 3), 1.0, id="batch_first forgotten"),
        pytest.param(lambda x: x, lambda h: h[-1], False, (5, 8, 3), None, id="data with time first"),
        pytest.param(lambda x: x, lambda h: h, False, (5, 8, 3), None, id="and a target for each time step"),
        pytest.param(lambda x: x, lambda h: h.mean(2), False, (5, 4, 3), None, id="one value for each time step"),
        pytest.param(lambda x: x, lambda h: h[:, -1], False, (8, 1, 3), None, id="a single row"),
        pytest.param(
            lambda x: (2 * x).reshape(5, -1, 3), lambda h: h[-1], False, (8, 5, 3), None, id="other values: unknown"
        ),
    ],
)
def test_layouts(
    lay: Callable[[Tensor], Tensor],
    read: Callable[[Tensor], Tensor],
    batch_first: bool,
    shape: tuple[int, ...],
    kind: float | None,
) -> None:
    torch.manual_seed(0)
    model = Reader(lay, read, batch_first)
    if read(torch.zeros(5, 4, 4)).shape == (5, 4):  # without the axis of units
        model.out = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, overhead=1) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            loss = model(torch.randn(shape)).square().mean()
            loss.backward()
            optimizer.step()
            monitor.log(loss=loss)
    assert monitor.context.asked.get("mixed_rows") == kind
    assert [f.layers for f in monitor.findings if f.problem == "rows_mixed"] == [("rnn",)] * (kind is not None)


class Tokens(nn.Module):
    """An embedding, a layer of sequences and an output layer, which reads the mean over the second axis."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.embedding, self.layer, self.out = nn.Embedding(9, 8), layer, nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores, one for each row of the first axis."""
        hidden = self.layer(self.embedding(tokens))
        return self.out((hidden[0] if isinstance(hidden, tuple) else hidden).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda first: nn.LSTM(8, 8, batch_first=first), id="recurrent"),
        pytest.param(
            lambda first: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=first), 1),
            id="attention",
            marks=pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
        ),
    ],
)
def test_token_rows(make: Callable[[bool], nn.Module], batch_first: bool) -> None:
    torch.manual_seed(0)
    model = Tokens(make(batch_first))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, overhead=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randint(9, (8, 5))), torch.randint(2, (8,))).backward()
            optimizer.step()
        assert ("mixed_rows" in monitor.context.asked) is not batch_first  # before the end
    assert ("rows_mixed" in {finding.problem for finding in monitor.findings}) is not batch_first
