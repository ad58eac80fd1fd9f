"""What the gradients of a step say beside their norms: Adam's second moment against them, and their direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.statistics.stats import joined, norms, strided_entries

__all__ = ["Direction", "GradientEntries"]

_MOST = 2**20
"""Entries of gradients that are kept from one sampled step to the next, at most."""

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Direction:
    """Direction and length of a gradient, on its device: a vector of length 1, and a scalar."""

    unit: Tensor
    length: Tensor

    def cosine(self, other: Direction) -> Tensor:
        """Return the cosine of the angle to another one; NaN where one is zero or not finite, or they don't match."""
        same = other.unit.shape == self.unit.shape and other.unit.device == self.unit.device
        return torch.dot(self.unit, other.unit) if same else self.length * torch.nan


class GradientEntries:
    """Copies of strided entries of the gradients of a step, on their device.

    Args:
        parameters: The parameters. One without a gradient, or with a sparse one, counts as one whose gradient is zero.
        entries: How many entries of each to look at, at most.
        scale: What the gradients are still multiplied by, or None.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], entries: Sequence[int], scale: Tensor | None) -> None:
        share = min(1.0, _MOST / max(sum(entries), 1))
        self._entries = [max(1, int(most * share)) for most in entries]
        self._parameters = parameters
        self._known = [p.grad is not None and not p.grad.is_sparse for p in parameters]
        sources = [
            p.grad if known and p.grad is not None else p for p, known in zip(parameters, self._known, strict=True)
        ]
        parts = strided_entries(sources, self._entries)
        parts = [part if known else torch.zeros_like(part) for part, known in zip(parts, self._known, strict=True)]
        self._flat = joined(parts) if scale is None else joined(parts) / scale.to(parts[0].device)
        self._parts = torch.split(self._flat, [part.numel() for part in parts])

    def direction(self) -> Direction:
        """Return the direction of the whole gradient."""
        length = norms([self._flat])[0]
        return Direction(self._flat.float() / length, length)

    def moment_ratios(self, optimizer: Optimizer) -> tuple[list[int], list[int], list[Tensor]]:
        """Compare with the second moment of an optimizer of Adam's family, as its step has left it.

        Returns:
            Places of the parameters that have one, how many entries of each were looked at, and the L2 norms of
            g / max(root of v, ε) over them. Without one that is bias-corrected by the number of steps: nothing.
        """
        places, counts, lengths = list[int](), list[int](), list[Tensor]()
        for (beta, epsilon, steps), group in self._moments(optimizer).items():
            sizes = [self._parts[i].numel() for i, _, _ in group]
            moments = joined(strided_entries([v for _, v, _ in group], [self._entries[i] for i, _, _ in group]))
            if steps is None:  # they are on the device: the host doesn't know them
                steps = joined([t.reshape(1).expand(n) for (_, _, t), n in zip(group, sizes, strict=True)])
            root = (moments / (1 - beta**steps)).clamp_min(max(epsilon**2, _TINY)).sqrt()
            whole = len(group) == len(self._parts)
            ratios = (self._flat if whole else joined([self._parts[i] for i, _, _ in group])) / root
            places += [i for i, _, _ in group]
            counts += sizes
            lengths += norms(torch.split(ratios, sizes))
        return places, counts, lengths

    def _moments(self, optimizer: Optimizer) -> dict[tuple[float, float, Any], list[tuple[int, Tensor, Any]]]:
        """Return place, second moment and steps of each parameter, by β2, ε and steps where the host knows them."""
        settings = {id(p): group for group in optimizer.param_groups if "betas" in group for p in group["params"]}
        found: dict[tuple[float, float, Any], list[tuple[int, Tensor, Any]]] = {}
        for i, parameter in enumerate(self._parameters):
            group = settings.get(id(parameter))
            if group is None or not self._known[i] or parameter not in optimizer.state:
                continue
            state = optimizer.state[parameter]
            moment = state.get("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
            steps = state.get("step")
            if not isinstance(moment, Tensor) or moment.shape != parameter.shape or steps is None:
                continue
            at_hand = not isinstance(steps, Tensor) or steps.device.type == "cpu"
            key = float(group["betas"][1]), float(group["eps"]), float(steps) if at_hand else None
            found.setdefault(key, []).append((i, moment, steps))
        return found
