"""Updates of Adam that are no longer than its learning rate says, however its second moment lags behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["clip_updates"]


def clip_updates(optimizer: Optimizer) -> None:
    """Divide each tensor's update by max(1, RMS of gradient ÷ root of the second moment), from now on.

    StableAdamW: Wortsman et al. 2023 (2304.13013), algorithm 2. Nothing of it is kept in ``state_dict``.

    Args:
        optimizer: Adam or one of its kin.
    """
    clipper = _UpdateClipper()
    optimizer.register_step_pre_hook(clipper.before)
    optimizer.register_step_post_hook(clipper.after)


class _UpdateClipper:
    """Hooks around a step: what the weights were, and what share of their update is let through."""

    def __init__(self) -> None:
        self._updates: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.no_grad()
    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                second = optimizer.state.get(parameter, {}).get("exp_avg_sq")
                if parameter.grad is None or second is None:
                    continue
                beta, square = group["betas"][1], parameter.grad.square()
                steps = float(optimizer.state[parameter]["step"]) + 1
                now = (beta * second + (1 - beta) * square) / (1 - beta**steps)
                excess = (square / now.clamp_min(group["eps"] ** 2 or torch.finfo(now.dtype).tiny)).mean().sqrt()
                self._updates.append((parameter, parameter.detach().clone(), 1 / excess.clamp_min(1.0)))

    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, before, share in self._updates:
            parameter.copy_(torch.lerp(before, parameter.detach(), share.to(before)))
        self._updates.clear()
