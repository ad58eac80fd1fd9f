"""Products with the table of an embedding: an output layer that shares its weights, and is no layer of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import observed, patched
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.keras_internals import backend

__all__ = ["TableProducts"]

_PRODUCTS = ("matmul", "dot", "einsum", "tensordot")
_VIEWS = ((backend.numpy, "transpose"), (backend.core, "cast"), (backend, "convert_to_tensor"))
"""Functions whose result stands for the table that they take."""


class TableProducts:
    """Finds products of values with the table of an embedding, which functions of Keras compute.

    ``ops.matmul(x, ops.transpose(embedding.embeddings))`` and layers such as `keras.layers.ReversibleEmbedding` do so;
    operators and functions of the engine itself are not seen, but their results show by their shape (`unseen`).

    Args:
        layers: The layers, by row.
        note: Called with the row of the embedding, the product, and the values that are multiplied by its table.
        fail: Called with an exception of our own code.
    """

    def __init__(
        self,
        layers: Sequence[WatchedLayer],
        note: Callable[[int, Any, Any], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._tables = {
            row: weight
            for row, watched in enumerate(layers)
            if watched.info.kind == "embedding"
            for weight in watched.weights
            if len(weight.shape) == 2
        }
        self._shapes = Counter(frozenset(weight.shape) for watched in layers for weight in watched.weights)
        self._note, self._fail = note, fail
        self._rows: dict[int, tuple[int, Any]] = {}  # by id of a table, or of what stands for it, which is kept alive

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Observe these functions for a while."""
        if not self._tables:
            yield
            return
        self._rows = {id(weight): (row, weight) for row, weight in self._tables.items()}
        if keras.backend.backend() != "jax":  # its variables hold no values while it trains
            self._rows |= {id(weight.value): (row, weight.value) for row, weight in self._tables.items()}
        with ExitStack() as stack:
            functions = [(module, name, self._view) for module, name in _VIEWS]
            functions += [(backend.numpy, name, partial(self._product, name)) for name in _PRODUCTS]
            for module, name, note in functions:
                wrapped = observed(getattr(module, name), note, self._fail, arguments=True)
                stack.enter_context(patched(module, name, wrapped))
            try:
                yield
            finally:
                self._rows = {}

    def unseen(self, output: Any, values: Any) -> int | None:
        """Return the row of the embedding whose table alone can have made the output of the model; None without one.

        Args:
            output: The output, which no layer returned.
            values: What the last layer returned.
        """
        shape = values.shape[-1:], output.shape[-1:]
        sizes = [size[0] if size else None for size in shape]
        if None in sizes or sizes[0] == sizes[1]:
            return None
        rows = [row for row, table in self._tables.items() if tuple(table.shape) == (sizes[1], sizes[0])]
        return rows[0] if len(rows) == 1 and self._shapes[frozenset(sizes)] == 1 else None

    def _view(self, result: Any, x: Any = None, *_: Any, **__: Any) -> None:
        if id(x) in self._rows:
            self._rows[id(result)] = self._rows[id(x)][0], result

    def _product(self, name: str, result: Any, *args: Any, **kwargs: Any) -> None:
        operands = [*args[name == "einsum" :], *kwargs.values()][:2]
        if len(operands) < 2:
            return
        for table, values in (operands, operands[::-1]):
            if id(table) in self._rows and id(values) not in self._rows:
                self._note(self._rows[id(table)][0], result, values)
