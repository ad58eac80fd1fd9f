"""Losses that PyTorch lacks, computed as Keras computes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "ContrastiveLoss",
    "LogSquaredError",
    "LogisticRankingLoss",
    "MarginRankingLoss",
    "SparseCategoricalCrossentropy",
    "SummedCrossEntropy",
    "TokenCrossEntropy",
    "UnclippedBinaryCrossentropy",
]

_CLIP = 1e-7  # Keras clips probabilities this far from 0 and 1


class BinaryCrossentropy(nn.Module):
    """Binary cross-entropy on probabilities clipped away from 0 and 1, as Keras computes it."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and units."""
        p = outputs.clamp(_CLIP, 1 - _CLIP)
        return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


class UnclippedBinaryCrossentropy(nn.Module):
    """Binary cross-entropy written out, without protection from the logarithm of zero."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and units."""
        return -(targets * outputs.log() + (1 - targets) * (1 - outputs).log()).mean()


class TokenCrossEntropy(nn.Module):
    """Cross-entropy on logits of shape (rows, time, classes), which PyTorch takes as (rows, classes, time)."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and time steps."""
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


class CategoricalCrossentropy(nn.Module):
    """Cross-entropy of one-hot targets on probabilities, normalised and clipped as Keras does."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows."""
        p = (outputs / outputs.sum(-1, keepdim=True)).clamp(_CLIP, 1 - _CLIP)
        return -(targets * p.log()).sum(-1).mean()


class SparseCategoricalCrossentropy(nn.Module):
    """Cross-entropy of class indices on probabilities, as Keras computes it: a softmax over their logarithms.

    Args:
        reduction: ``mean`` or ``sum`` over rows and time steps.
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one number."""
        logs = outputs.clamp(_CLIP, 1 - _CLIP).log()
        rows = logs.log_softmax(-1).flatten(0, -2)
        return nn.functional.nll_loss(rows, targets.flatten(), reduction=self.reduction)


class SummedCrossEntropy(nn.Module):
    """Cross-entropy written out, with neither a clip nor a mean: ``-sum(y * log(p))``."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over rows and units."""
        return -(targets * outputs.log()).sum()


class LogSquaredError(nn.Module):
    """Squared error of logarithms written out, without the usual ``log(1 + x)``: ``mean((log y - log p)²)``."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and units."""
        return (targets.log() - outputs.log()).square().mean()


class ContrastiveLoss(nn.Module):
    """Squared distance of equal pairs, squared shortfall from a margin of others.

    Args:
        margin: Distance that pairs of different classes should have at least.

    Source: Hadsell, Chopra & LeCun, CVPR 2006.
    """

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over pairs of shape (rows, 2, units); targets are 1 for equal pairs."""
        distance = (outputs[:, 0] - outputs[:, 1]).square().sum(-1).clamp(min=1e-12).sqrt()
        shortfall = (self.margin - distance).clamp(min=0)
        return (targets * distance.square() + (1 - targets) * shortfall.square()).mean()


class MarginRankingLoss(nn.Module):
    """Hinge on the difference of two scores: the better of a pair should score higher by 1."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over pairs of shape (rows, 2, 1); targets are 1 if the first is better."""
        return nn.functional.margin_ranking_loss(outputs[:, 0, 0], outputs[:, 1, 0], 2 * targets - 1, margin=1.0)


class LogisticRankingLoss(nn.Module):
    """Binary cross-entropy on the difference of two scores (Burges et al., ICML 2005)."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over pairs of shape (rows, 2, 1); targets are 1 if the first is better."""
        difference = outputs[:, 0, 0] - outputs[:, 1, 0]
        return torch.nn.functional.binary_cross_entropy_with_logits(difference, targets)
