"""Calling a model so that neither its variables nor the attributes of its layers change."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from autotrainer.backends.keras3.engines.loop_signals import enter_keras, leave_keras
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.model.copying import sublayers

__all__ = ["Isolation"]

_CONTAINERS = (list, dict, set, deque, tuple)
"""Kinds whose elements are looked at; of these, tuples stay what they are."""


class Isolation:
    """Keeps a model as it is while it is called.

    Values assigned to variables last from one `active` block to the next, and are seen there alone. Attributes that a
    ``call`` sets, and lists, dicts, sets and deques in them that it changes, however nested, are as before after each
    block. State elsewhere, such as global variables of the user's code or arrays that are written to in place, is not
    kept. A call that would create weights raises a RuntimeError.

    Args:
        model: The model, built apart from layers that it does not call.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Return a context manager within which the model may be called, and its variables be assigned."""
        layers = [(vars(layer), dict(vars(layer))) for layer in sublayers(self._model)]
        containers = _contents(value for _, attributes in layers for value in attributes.values())
        enter_keras()  # a loop that is watched does not take these calls for its own
        try:
            with ExitStack() as stack:
                for layer in sublayers(self._model):
                    if not layer.built:
                        stack.enter_context(patched(layer, "build", _refuse))
                stack.enter_context(self._scope)
                yield
        finally:
            leave_keras()
            self._scope.losses.clear()
            for now, before in layers:
                _refill(now, before)
            for container, content in containers:
                _refill(container, content)


def _refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("a layer of the model has no weights yet")


def _contents(values: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Return each list, dict, set and deque among values and inside these, with a shallow copy of its content."""
    contents: list[tuple[Any, Any]] = []
    waiting, seen = list(values), set[int]()
    while waiting:
        value = waiting.pop()
        kind = next((kind for kind in _CONTAINERS if isinstance(value, kind)), None)
        if kind is None or id(value) in seen:
            continue
        seen.add(id(value))
        if kind is not tuple:
            contents.append((value, kind(value)))
        if kind is not set:  # whose elements are hashable: no container that changes
            waiting.extend(value.values() if kind is dict else value)
    return contents


def _refill(container: Any, content: Any) -> None:
    """Give a list, dict, set or deque its former content, past methods by which Keras would track it."""
    if isinstance(container, list | deque):
        if len(container) != len(content) or any(a is not b for a, b in zip(container, content, strict=True)):
            if isinstance(container, list):
                list.__setitem__(container, slice(None), content)
            else:
                container.clear()
                container.extend(content)
    elif isinstance(container, dict):
        if list(container) != list(content) or any(container[key] is not content[key] for key in content):
            kind = (
                OrderedDict if isinstance(container, OrderedDict) else dict
            )  # which keeps the order of its keys itself
            kind.clear(container)
            for key, value in content.items():
                kind.__setitem__(container, key, value)
    elif container != content:
        set.clear(container)
        set.update(container, content)
