"""Update clipping for Adam: updates do not exceed the learning rate while the second moment lags behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["clip_updates"]


def clip_updates(optimizer: Optimizer) -> None:
    """Divide the update of each tensor by max(1, RMS of gradient ÷ root of second moment), from now on.

    StableAdamW: Wortsman et al. 2023 (2304.13013), algorithm 2. It adds nothing to ``state_dict``.

    Args:
        optimizer: An optimizer of the Adam family.
    """
    clipper = _UpdateClipper()
    optimizer.register_step_pre_hook(clipper.before)
    optimizer.register_step_post_hook(clipper.after)


class _UpdateClipper:
    """Hooks around a step: keep the weights before it, and scale down their update."""

    def __init__(self) -> None:
        self._updates: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                second_moment = optimizer.state.get(parameter, {}).get("exp_avg_sq")
                if parameter.grad is None or second_moment is None:
                    continue
                beta, squared = group["betas"][1], parameter.grad.square()
                steps = float(optimizer.state[parameter]["step"]) + 1
                corrected = (beta * second_moment + (1 - beta) * squared) / (1 - beta**steps)
                excess = (
                    (squared / corrected.clamp_min(group["eps"] ** 2 or torch.finfo(corrected.dtype).tiny))
                    .mean()
                    .sqrt()
                )
                self._updates.append((parameter, parameter.detach().clone(), 1 / excess.clamp_min(1.0)))

    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, before, scale in self._updates:
            parameter.copy_(torch.lerp(before, parameter.detach(), scale.to(before)))
        self._updates.clear()
