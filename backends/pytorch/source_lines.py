"""Where in the user's files the layers of a PyTorch model are made."""

from __future__ import annotations

from torch import nn

from autotrainer.backends.pytorch.describe import watched_modules
from autotrainer.sources import layer_line

__all__ = ["layer_place"]


def layer_place(model: nn.Module, name: str, file: str) -> str:
    """Return file and line where a layer is made; empty if that can't be told.

    Args:
        model: The model.
        name: Name of the layer, see `watched_modules`.
        file: The user's file from which the model is watched.
    """
    layer = watched_modules(model).get(name)
    path = next((path for path, module in model.named_modules() if module is layer), None)
    if layer is None or not path:
        return ""
    steps = []
    owner = model
    for part in path.split("."):
        parts = owner._modules
        steps.append((owner, part, [type(child).__name__ for child in parts.values()]))
        following = parts.get(part)
        if following is None:
            return ""
        owner = following
    count = sum(type(module) is type(layer) for module in model.modules())
    return layer_line(steps, type(layer).__name__, path.rpartition(".")[2], count, file)
