"""Whether this process is one of several of a training."""

from __future__ import annotations

import os
from typing import Any

import torch

from autotrainer.backends.pytorch.runtime.torch_private import default_group

__all__ = ["several_ranks"]

_inherited: Any = None
"""In a forked child, the default group of its parent, whose store and connections are not to be used."""


def several_ranks() -> bool:
    """Return whether this process is one of several of a training; a forked child of one of them is not."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return default_group() is not _inherited


def _note_inherited() -> None:
    global _inherited
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _inherited = default_group()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_inherited)
