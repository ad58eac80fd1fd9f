"""Tests of the modules that bring tokens and outputs into order, and of trainings that need them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.backends.pytorch.layers.rearranged import LeadingPadding, RestoredAxes
from autotrainer.errors import ConfigError
from autotrainer.training.data_edits import trailing_token


def test_padding_moves_to_the_start_and_tokens_keep_their_order() -> None:
    tokens = torch.tensor([[5, 6, 0, 0], [5, 0, 7, 0], [1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 8, 9]])
    moved = LeadingPadding(nn.Identity(), 0)(tokens)
    assert moved.tolist() == [[0, 0, 5, 6], [0, 5, 0, 7], [1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 8, 9]]


@pytest.mark.parametrize("axes", [(5,), (4, 6)])
def test_reshaped_outputs_become_those_of_exchanged_axes(axes: tuple[int, ...]) -> None:
    outputs = torch.randn(2, *axes, 3)

    class Reshaped(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return values.reshape(2, 3, *axes)

    assert torch.equal(RestoredAxes(Reshaped())(outputs), outputs.movedim(-1, 1))


def test_padding_token_is_the_one_that_ends_most_sequences() -> None:
    assert trailing_token([np.array([[3, 1, 1], [2, 1, 1], [4, 5, 6]])]) == 1
    with pytest.raises(ConfigError, match="no padding"):
        trailing_token([np.array([[3, 1, 2], [2, 4, 1], [0, 0, 5]])])


class _Tagger(nn.Module):
    def __init__(self, *, reshapes: bool) -> None:
        super().__init__()
        self.embedding, self.hidden, self.out = nn.Embedding(20, 24), nn.Linear(24, 32), nn.Linear(32, 4)
        self.reshapes = reshapes

    def forward(self, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.out(torch.relu(self.hidden(self.embedding(tokens))))
        return outputs.view(len(tokens), 4, -1) if self.reshapes else outputs.transpose(1, 2)


class _LastOutput(nn.Module):
    def __init__(self, *, padded: bool) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(30, 16), nn.Linear(24, 2)
        self.recurrent = nn.GRU(16, 24, batch_first=True)
        self.padded = padded

    def forward(self, tokens: Tensor) -> Tensor:
        outputs = self.recurrent(self.embedding(tokens))[0]
        last = -1 if self.padded else (tokens != 0).sum(1) - 1
        scores: Tensor = self.out(outputs[:, -1] if self.padded else outputs[torch.arange(len(tokens)), last])
        return scores


def _fit(model: nn.Module, x: Tensor, y: Tensor) -> autotrainer.Result:
    rows = len(x) * 3 // 4
    return autotrainer.fit(
        model,
        (x[:rows], y[:rows]),
        (x[rows:], y[rows:]),
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 5e-3),
        epochs=10,
        budget=3.0,
        progress=False,
    )


@pytest.mark.parametrize("reshapes", [True, False])
def test_reshape_in_place_of_permute_is_repaired(reshapes: bool) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 20, (480, 12))
    result = _fit(_Tagger(reshapes=reshapes), x, x % 4)
    assert result.status == ("repaired" if reshapes else "healthy")
    assert result.score > 0.95
    assert ("movedim(-1, 1)" in str(result.plan)) is reshapes


@pytest.mark.parametrize("padded", [True, False])
def test_last_output_behind_padding_is_repaired(padded: bool) -> None:
    torch.manual_seed(0)
    x = torch.randint(1, 30, (640, 60))
    y = (x[:, 0] < 15).long()
    lengths = torch.randint(2, 6, (640, 1))
    x = torch.where(torch.arange(60) < lengths, x, 0)
    result = _fit(_LastOutput(padded=padded), x, y)
    assert result.status == ("repaired" if padded else "healthy")
    assert result.score > 0.9
    assert ("(token 0) moved" in str(result.plan)) is padded
