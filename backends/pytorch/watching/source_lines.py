"""Lines of the user's files where layers of a PyTorch model are made, and loss and optimizer step are called."""

from __future__ import annotations

from torch import nn

from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.monitoring.source_lines import ModulePart, calling_file, calling_line, keyword_line, layer_line
from autotrainer.rule import Place

__all__ = ["SourceLines"]


class SourceLines:
    """Finds files and lines of one training. Construct it while the user's call is on the stack.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._file = calling_file()
        self._call_lines: dict[Place, str] = {}

    def record_call(self, kind: Place) -> None:
        """Record the line of the user's call that is on the stack now, once for each kind."""
        if kind not in self._call_lines:
            self._call_lines[kind] = calling_line()

    def locate(self, kind: Place, layer: str | None, *, managed: bool) -> str:
        """Return file and line that a finding points to, or an empty string if unknown.

        Args:
            kind: Construction of a layer, or a call that was recorded.
            layer: Name of the layer.
            managed: Whether `autotrainer.fit` runs the training: then the loss is an argument of that call.
        """
        if kind == "layer":
            return "" if layer is None else self._layer_line(layer)
        if not managed:
            return self._call_lines.get(kind, "")
        return keyword_line(self._file, "fit", "loss") if kind == "loss" and self._file else ""

    def _layer_line(self, name: str) -> str:
        layer = watched_modules(self._model).get(name)
        path = next((path for path, module in self._model.named_modules() if module is layer), None)
        if layer is None or not path:
            return ""
        steps: list[ModulePart] = []
        owner = self._model
        for part in path.split("."):
            parts = owner._modules
            steps.append((owner, part, [type(child).__name__ for child in parts.values()]))
            child = parts.get(part)
            if child is None:
                return ""
            owner = child
        count = sum(type(module) is type(layer) for module in self._model.modules())
        return layer_line(steps, type(layer).__name__, path.rpartition(".")[2], count, self._file)
