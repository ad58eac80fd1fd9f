"""The direction of a step's gradients, and their ratio to Adam's second moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.ranks.shards import is_summand, local_part
from autotrainer.backends.pytorch.statistics.stats import joined, norms, strided_entries

__all__ = ["GradientDirection", "GradientSample"]

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class GradientDirection:
    """Direction and length of a gradient, on its device: a vector of length 1, and a scalar."""

    unit: Tensor
    length: Tensor

    def cosine(self, other: GradientDirection) -> Tensor:
        """Return the cosine of the angle to another direction.

        NaN if a gradient is zero or not finite, or the two differ in shape or device.
        """
        same = other.unit.shape == self.unit.shape and other.unit.device == self.unit.device
        return torch.dot(self.unit, other.unit) if same else self.length * torch.nan


class GradientSample:
    """Copies of strided entries of the gradients of a step, on their device.

    Args:
        parameters: The parameters. A missing or sparse gradient counts as zero, and one that is a sum over processes.
        entries: How many entries of each to copy, at most.
        scale: Factor that the gradients still contain (see `GradScaler`), or None.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], entries: Sequence[int], scale: Tensor | None) -> None:
        self._entries = entries
        self._parameters = parameters
        self._has_gradient = [
            p.grad is not None and not p.grad.is_sparse and not is_summand(p.grad) for p in parameters
        ]
        graded = list(zip(parameters, self._has_gradient, strict=True))
        sources = [local_part(p.grad if has_gradient and p.grad is not None else p) for p, has_gradient in graded]
        parts = strided_entries(sources, self._entries)
        kept = zip(parts, self._has_gradient, strict=True)
        parts = [part if has_gradient else torch.zeros_like(part) for part, has_gradient in kept]
        self._flat = joined(parts) if scale is None else joined(parts) / scale.to(parts[0].device)
        self._parts = torch.split(self._flat, [part.numel() for part in parts])

    def direction(self) -> GradientDirection:
        """Return the direction of the whole gradient."""
        length = norms([self._flat])[0]
        return GradientDirection(self._flat.float() / length, length)

    def moment_ratios(self, optimizer: Optimizer) -> tuple[list[int], list[int], list[Tensor]]:
        """Compare with the second moment of an optimizer of the Adam family, as its step has left it.

        Returns:
            Indices of the parameters that have a second moment v with bias correction, the number of entries that
            were compared of each, and the L2 norms of g / max(√v, ε) over them.
        """
        indices, counts, ratio_norms = list[int](), list[int](), list[Tensor]()
        for (beta, epsilon, steps), group in self._moments(optimizer).items():
            sizes = [self._parts[i].numel() for i, _, _ in group]
            moments = joined(strided_entries([v for _, v, _ in group], [self._entries[i] for i, _, _ in group]))
            if steps is None:  # the counts are on the device, unknown to the host
                steps = joined([t.reshape(1).expand(n) for (_, _, t), n in zip(group, sizes, strict=True)])
            root = (moments / (1 - beta**steps)).clamp_min(max(epsilon**2, _TINY)).sqrt()
            all_parameters = len(group) == len(self._parts)
            ratios = (self._flat if all_parameters else joined([self._parts[i] for i, _, _ in group])) / root
            indices += [i for i, _, _ in group]
            counts += sizes
            ratio_norms += norms(torch.split(ratios, sizes))
        return indices, counts, ratio_norms

    def _moments(self, optimizer: Optimizer) -> dict[tuple[float, float, Any], list[tuple[int, Tensor, Any]]]:
        """Return index, second moment and steps of each parameter, by β2, ε and steps (None if on the device)."""
        groups_of = {id(p): group for group in optimizer.param_groups if "betas" in group for p in group["params"]}
        by_settings: dict[tuple[float, float, Any], list[tuple[int, Tensor, Any]]] = {}
        for i, parameter in enumerate(self._parameters):
            group = groups_of.get(id(parameter))
            if group is None or not self._has_gradient[i] or parameter not in optimizer.state:
                continue
            state = optimizer.state[parameter]
            moment = state.get("max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
            steps = state.get("step")
            if not isinstance(moment, Tensor) or moment.shape != parameter.shape or steps is None:
                continue
            steps = local_part(steps) if isinstance(steps, Tensor) else steps
            on_host = not isinstance(steps, Tensor) or steps.device.type == "cpu"
            key = float(group["betas"][1]), float(group["eps"]), float(steps) if on_host else None
            by_settings.setdefault(key, []).append((i, local_part(moment), steps))
        return by_settings
