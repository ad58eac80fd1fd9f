"""Patching attributes of instances for a while, and observing what their methods return."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["RecordingError", "observed", "patched"]


class RecordingError(Exception):
    """Raised while a step is traced: it can't be recorded without changing the training."""


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an instance without Keras tracking it, and restore it afterwards."""
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


def observed(
    function: Callable[..., Any],
    note: Callable[..., None],
    fail: Callable[[Exception], None],
    *,
    arguments: bool = False,
) -> Callable[..., Any]:
    """Return a wrapper of a function that passes each result (and the arguments, if wanted) to ``note``.

    Errors of ``note`` go to ``fail``, except `RecordingError`.
    """

    @functools.wraps(function)
    @passes_on
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        try:
            note(result, *args, **kwargs) if arguments else note(result)
        except RecordingError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            fail(error)
        return result

    return call
