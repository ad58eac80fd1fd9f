"""Replacing functions of a framework for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["FunctionPatch"]


class FunctionPatch:
    """Replaces a function until `undo`.

    Args:
        owner: Class or module of the function.
        name: Its name there.
        wrap: Makes the replacement from the original.
    """

    def __init__(self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        original = getattr(owner, name)
        self._owner, self._name = owner, name
        self._previous = vars(owner).get(name)  # None if inherited
        self._replacement = functools.wraps(original)(wrap(original))
        if isinstance(owner, ModuleType):
            self._replacement.__module__, self._replacement.__qualname__ = owner.__name__, name  # pickled by them
        setattr(owner, name, self._replacement)

    def undo(self) -> None:
        """Restore the original, unless something else has replaced the function since."""
        if vars(self._owner).get(self._name) is not self._replacement:
            return
        if self._previous is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._previous)
