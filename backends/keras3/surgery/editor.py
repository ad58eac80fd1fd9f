"""The model that is edited: its graph, which layers may be changed, and rebuilding it with other layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import keras

from autotrainer.backends.keras3.data.scaling import InputStatistics
from autotrainer.backends.keras3.model.copying import has_graph, sublayers
from autotrainer.backends.keras3.model.layer_graph import LayerGraph
from autotrainer.backends.keras3.model.rebuilding import rebuild
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.errors import ConfigError

__all__ = ["Editor", "LayerChanges"]


@dataclass(slots=True)
class LayerChanges:
    """Layers to replace and to insert, by `id` of a present layer."""

    replaced: dict[int, Any] = field(default_factory=dict)
    after: dict[int, list[Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.replaced or self.after)


class Editor:
    """A model that is being edited.

    Args:
        model: A built model that may be changed.
        keep: Patterns of names of layers that must not change.
        statistics: Index of a flattened input -> its statistics; None without data.
        shapes: Shape of a row of each flattened input; None without data.

    Attributes:
        scaling: Name of the scaling layer inserted in front, or None.
        graph: The graph of the present model.
    """

    def __init__(
        self,
        model: Any,
        keep: Sequence[str] = (),
        statistics: Callable[[int], InputStatistics] | None = None,
        shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        self.model, self.statistics, self.shapes = model, statistics, shapes
        self.scaling: str | None = None
        self.graph = LayerGraph(model)
        self._keep = tuple(keep)

    def may_change(self, watched: WatchedLayer) -> bool:
        """Return whether a layer may be changed: it is not frozen, and no pattern of ``keep`` matches its path."""
        return not watched.info.frozen and self.pattern(watched.info.name) is None

    def pattern(self, name: str) -> str | None:
        """Return the pattern of ``keep`` that protects a layer, or None."""
        steps = name.split("/")
        paths = ["/".join(steps[a:b]) for a in range(len(steps)) for b in range(a + 1, len(steps) + 1)]
        return next((p for p in self._keep if any(fnmatchcase(path, p) for path in paths)), None)

    def named(self, names: Sequence[str]) -> list[WatchedLayer]:
        """Return the layers of these names, which may omit or include the name of an enclosing model.

        Raises:
            ConfigError: If none exists, or none may be changed.
        """
        layers = [p for p in self.graph.layers if any(_same_name(p.info.name, name) for name in names)]
        if not layers:
            raise ConfigError(f"the model has no layer named {', '.join(map(repr, names)) or '(none)'}")
        allowed = [p for p in layers if self.may_change(p)]
        if not allowed:
            pattern = self.pattern(layers[0].info.name)
            reason = f"keep={pattern!r} protects" if pattern else "frozen parameters are never changed:"
            raise ConfigError(f"{reason} {', '.join(p.info.name for p in layers)}")
        return allowed

    def require_graph(self, problem: str) -> None:
        """Raise a `ConfigError` that begins with ``problem`` if the model can't be rebuilt from its layers."""
        if not has_graph(self.model):
            raise ConfigError(
                f"{problem}: {type(self.model).__name__}.call() is code; only Sequential and Functional models "
                "can be restructured"
            )

    def new_name(self, name: str) -> str:
        """Return an unused name for a new layer."""
        used = {layer.name for layer in sublayers(self.model)}
        return next(n for n in (name, *(f"{name}_{i}" for i in range(1, 10_000))) if n not in used)

    def restructure(self, changes: LayerChanges) -> None:
        """Rebuild the model with other layers."""
        if changes:
            self.model = rebuild(self.model, replaced=changes.replaced, after=changes.after)

    def insert_before_input(self, layers: list[Any], input_index: int, width: int | None = None) -> None:
        """Insert new layers in front of an input; ``width`` is its number of features, None if unknown."""
        if has_graph(self.model):
            self.model = rebuild(self.model, head=layers, input_index=input_index)
            return
        shape = self.shapes[input_index] if self.shapes is not None else (width,)
        if shape == (None,):
            raise ConfigError(f"the input shape of {type(self.model).__name__} is unknown")
        self.model = keras.Sequential([keras.Input(shape), *layers, self.model])

    def width(self, input_index: int) -> int | None:
        """Return the number of features of an input of rank 2; None for others."""
        if has_graph(self.model):
            shape = tuple(keras.tree.flatten(self.model.inputs)[input_index].shape)[1:]
        else:
            shape = self.shapes[input_index] if self.shapes is not None else ()
        return shape[0] if len(shape) == 1 else None


def _same_name(a: str, b: str) -> bool:
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)
