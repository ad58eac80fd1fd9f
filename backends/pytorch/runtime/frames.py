"""Variables of the functions that call ours."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

__all__ = ["frame_variables"]

_OUR_REFERENCES = 3
"""References to the snapshot of a frame that nobody else reads: the frame, our variable, and the counting call."""


def frame_variables(frame: FrameType) -> dict[str, Any]:
    """Return the variables of a function that runs, which are not kept alive beyond the result.

    Before Python 3.13, a frame keeps the snapshot that reading them makes: tensors that the function deletes would stay
    in memory. It is emptied, unless the function itself has taken it from `locals`.
    """
    snapshot = frame.f_locals
    variables = dict(snapshot)
    code = frame.f_code
    is_snapshot = code.co_flags & inspect.CO_OPTIMIZED and isinstance(snapshot, dict)
    if is_snapshot and sys.getrefcount(snapshot) <= _OUR_REFERENCES:
        for name in (*code.co_varnames, *code.co_cellvars, *code.co_freevars):
            snapshot.pop(name, None)
    return variables
