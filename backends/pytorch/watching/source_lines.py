"""Where in the user's files the layers of a PyTorch model are made, and the loss and the step are called."""

from __future__ import annotations

from torch import nn

from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.monitoring.source_lines import ModulePart, calling_file, calling_line, keyword_line, layer_line
from autotrainer.rule import Place

__all__ = ["SourceLines"]


class SourceLines:
    """Files and lines of one training. Made where the user's call is on the stack.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._file = calling_file()
        self._calls: dict[Place, str] = {}

    def note(self, what: Place) -> None:
        """Note the call that is on the stack now, the first time."""
        if what not in self._calls:
            self._calls[what] = calling_line()

    def place(self, what: Place, layer: str | None, *, managed: bool) -> str:
        """Return file and line of what a finding points to; empty if that can't be told.

        Args:
            what: The making of a layer, or a call that was noted.
            layer: Name of the layer.
            managed: Whether `autotrainer.fit` runs the training: then the loss is what its call says.
        """
        if what == "layer":
            return "" if layer is None else self._layer_place(layer)
        if not managed:
            return self._calls.get(what, "")
        return keyword_line(self._file, "fit", "loss") if what == "loss" and self._file else ""

    def _layer_place(self, name: str) -> str:
        layer = watched_modules(self._model).get(name)
        path = next((path for path, module in self._model.named_modules() if module is layer), None)
        if layer is None or not path:
            return ""
        steps: list[ModulePart] = []
        owner = self._model
        for part in path.split("."):
            parts = owner._modules
            steps.append((owner, part, [type(child).__name__ for child in parts.values()]))
            following = parts.get(part)
            if following is None:
                return ""
            owner = following
        count = sum(type(module) is type(layer) for module in self._model.modules())
        return layer_line(steps, type(layer).__name__, path.rpartition(".")[2], count, self._file)
