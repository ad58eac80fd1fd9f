"""Lines of the user's files where layers of a PyTorch model are made, and loss and optimizer are called."""

from __future__ import annotations

from typing import Any

from torch import nn

from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.monitoring.source_lines import (
    ModulePart,
    activation_line,
    calling_file,
    calling_line,
    constructor_line,
    keyword_line,
    layer_line,
    method_line,
)
from autotrainer.rule import Place

__all__ = ["SourceLines"]


class SourceLines:
    """Finds files and lines of one training. Construct it while the user's call is on the stack.

    Args:
        model: The model.
        optimizer: Name of the class of its optimizer; empty if unknown.
    """

    def __init__(self, model: nn.Module, optimizer: str = "") -> None:
        self._model, self._optimizer = model, optimizer
        self._file = calling_file()
        self._call_lines: dict[str, str] = {}
        self.output_activation: str | None = None
        """Name of the activation that the outputs have passed; None if unknown."""

    def record_call(self, kind: str) -> None:
        """Record the line of the user's call that is on the stack now, once for each kind.

        Args:
            kind: ``loss``, ``step``, ``evaluation`` (a loss that trains nothing) or ``eval`` (the change of the mode).
        """
        if kind not in self._call_lines:
            self._call_lines[kind] = calling_line()

    def loader_started(self, loader: Any, iterator: Any) -> None:
        """Do nothing: see `EpochListener`."""

    def evaluation_began(self, module: nn.Module) -> None:
        """Record where the model is put into evaluation mode."""
        if module is self._model:
            self.record_call("eval")

    def locate(self, kind: Place, layer: str | None, *, managed: bool) -> str:
        """Return file and line that a finding points to, or an empty string if unknown.

        Args:
            kind: Construction of a layer or the optimizer, or a call.
            layer: Name of the layer.
            managed: Whether `autotrainer.fit` runs the training: then loss and optimizer are arguments of that call.
        """
        if kind == "layer":
            return "" if layer is None else self._layer_line(layer)
        if managed and kind in ("loss", "optimizer"):
            return keyword_line(self._file, "fit", kind) if self._file else ""
        if kind == "output":
            return self._output_line(layer)
        if managed:
            return ""
        lines = self._call_lines
        if kind == "optimizer":
            return constructor_line(self._file, self._optimizer) or lines.get("step", "")
        if kind == "mode":
            return lines.get("eval") or lines.get("evaluation") or method_line(self._file, "eval")
        return lines.get(kind, "")

    def _output_line(self, layer: str | None) -> str:
        """Return where the output activation is applied: by a call, or by the layer that is the output."""
        module = None if layer is None else watched_modules(self._model).get(layer)
        name = self.output_activation
        if name in (None, "linear") or (module is not None and type(module).__name__.lower() == name.replace("_", "")):
            return "" if layer is None else self._layer_line(layer)
        kinds = [type(part) for part in self._model.modules()]
        by_call = activation_line(name, kinds, "forward", self._call_lines.get("loss", ""))
        return by_call or ("" if layer is None else self._layer_line(layer))

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
