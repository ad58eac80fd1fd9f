"""Runs whose tokens or outputs are in another order than the model is meant to get or give."""

from __future__ import annotations

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253

from pictures.parts import Data, adam
from pictures.run import Run

__all__ = ["PADDED_LAST", "RESHAPED"]


class _LastOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(30, 16), nn.Linear(24, 2)
        self.recurrent = nn.GRU(16, 24, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.out(self.recurrent(self.embedding(tokens))[0][:, -1])
        return scores


class _Reshaping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(20, 24), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(tokens)
        return outputs.view(len(tokens), 4, -1)


def _padded() -> Data:
    """Return short sequences behind which padding follows, and whether they begin in the first half of the words."""
    tokens = torch.randint(1, 30, (640, 60))
    return torch.where(torch.arange(60) < torch.randint(2, 6, (640, 1)), tokens, 0), (tokens[:, 0] < 15).long()


def _tagged() -> Data:
    """Return tokens, each with a class of its own."""
    tokens = torch.randint(0, 20, (480, 12))
    return tokens, tokens % 4


PADDED_LAST = Run(
    model=_LastOutput, data=_padded, loss=nn.CrossEntropyLoss, optimizer=lambda m: adam(m, 5e-3), validation=_padded
)
RESHAPED = Run(
    model=_Reshaping, data=_tagged, loss=nn.CrossEntropyLoss, optimizer=lambda m: adam(m, 5e-3), validation=_tagged
)
