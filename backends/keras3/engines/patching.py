"""Putting attributes on instances for a while, and listening to what passes through their methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from autotrainer.backends.keras3.engines.tensorflow_graph import UnobservableError

__all__ = ["noting", "patched"]


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an instance past Keras' attribute tracking, and put back what was there."""
    attributes = vars(owner)
    missing = object()
    before = attributes.get(name, missing)
    attributes[name] = value
    try:
        yield
    finally:
        if before is missing:
            attributes.pop(name, None)
        else:
            attributes[name] = before


def noting(
    own: Callable[..., Any], note: Callable[..., None], fail: Callable[[Exception], None], *, arguments: bool = False
) -> Callable[..., Any]:
    """Return a function that does what ``own`` does and tells its result (and arguments)."""

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = own(*args, **kwargs)
        try:
            note(result, *args, **kwargs) if arguments else note(result)
        except UnobservableError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            fail(error)
        return result

    return call
