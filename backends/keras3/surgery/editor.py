"""What edits of Keras models work with: the model, its graph, which layers are free, and putting it together anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import keras

from autotrainer.backends.keras3.data.feeding import InputStatistics
from autotrainer.backends.keras3.model.graph import Graph
from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.model.structure import has_graph, rebuild, sublayers
from autotrainer.errors import ConfigError

__all__ = ["Changes", "Editor"]


@dataclass(slots=True)
class Changes:
    """Layers to exchange and to put in, by `id` of a layer that is there."""

    replaced: dict[int, Any] = field(default_factory=dict)
    after: dict[int, list[Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.replaced or self.after)


class Editor:
    """A model that is edited.

    Args:
        model: A built model that may be changed.
        keep: Layer-name patterns that nothing may touch.
        statistics: Position of an input among the flattened ones -> its statistics, where data are at hand.
        shapes: Shapes of a row of each flattened input, where data are at hand.

    Attributes:
        scaling: Name of the scaling layer that was put in front, or None.
        graph: Who feeds whom in the model as it is now.
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
        self.graph = Graph(model)
        self._keep = tuple(keep)

    def free(self, part: Part) -> bool:
        """Say whether a layer may be touched: not frozen, and no pattern of ``keep`` names it or what holds it."""
        return not part.info.frozen and self._pattern(part.info.name) is None

    def _pattern(self, name: str) -> str | None:
        steps = name.split("/")
        paths = ["/".join(steps[a:b]) for a in range(len(steps)) for b in range(a + 1, len(steps) + 1)]
        return next((p for p in self._keep if any(fnmatchcase(path, p) for path in paths)), None)

    def named(self, names: Sequence[str]) -> list[Part]:
        """Return the layers of these names; a model put into another one is found under both names.

        Raises:
            ConfigError: If there is none of them, or none that may be touched.
        """
        parts = [p for p in self.graph.parts if any(_same_name(p.info.name, name) for name in names)]
        if not parts:
            raise ConfigError(f"the model has no layer named {', '.join(map(repr, names)) or '(none given)'}")
        free = [p for p in parts if self.free(p)]
        if not free:
            pattern = self._pattern(parts[0].info.name)
            why = f"keep={pattern!r} protects" if pattern else "frozen parameters are never touched:"
            raise ConfigError(f"{why} {', '.join(p.info.name for p in parts)}")
        return free

    def need_graph(self, what: str) -> None:
        """Raise a `ConfigError` for a model that can't be taken apart."""
        if not has_graph(self.model):
            raise ConfigError(
                f"{what}: {type(self.model).__name__}.call() is code; a Sequential or Functional model "
                "can be restructured"
            )

    def new_name(self, name: str) -> str:
        """Return a name for a new layer that no other layer has."""
        taken = {layer.name for layer in sublayers(self.model)}
        return next(n for n in (name, *(f"{name}_{i}" for i in range(1, 10_000))) if n not in taken)

    def restructure(self, changes: Changes) -> None:
        """Put the model together anew with other layers."""
        if changes:
            self.model = rebuild(self.model, replaced=changes.replaced, after=changes.after)

    def put_in_front(self, layers: list[Any], entry: int, width: int | None = None) -> None:
        """Send an input through new layers first; ``width`` is its number of features, where known."""
        if has_graph(self.model):
            self.model = rebuild(self.model, head=layers, entry=entry)
            return
        shape = self.shapes[entry] if self.shapes is not None else (width,)
        if shape == (None,):
            raise ConfigError(f"the input shape of {type(self.model).__name__} isn't known here")
        self.model = keras.Sequential([keras.Input(shape), *layers, self.model])

    def width(self, entry: int) -> int | None:
        """Return the number of features of an input of rank 2; None for others."""
        if has_graph(self.model):
            shape = tuple(keras.tree.flatten(self.model.inputs)[entry].shape)[1:]
        else:
            shape = self.shapes[entry] if self.shapes is not None else ()
        return shape[0] if len(shape) == 1 else None


def _same_name(a: str, b: str) -> bool:
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)
