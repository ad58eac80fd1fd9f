"""One output of a notebook cell that is updated while the cell runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, Self
from uuid import uuid4

__all__ = ["CellOutput"]

_INTERVAL, _SHARE = 1.0, 1e-3
"""Least seconds between two updates of an output, and share of the time that they take at most."""


class CellOutput:
    """One output of the notebook cell that runs, updated at most once a second and in at most a thousandth of the time.

    Args:
        ipython: The package ``IPython``, which the notebook has imported.
        clock: Returns the time in seconds.
    """

    def __init__(self, ipython: Any, clock: Callable[[], float] = perf_counter) -> None:
        self._ipython, self._clock = ipython, clock
        self._identity = uuid4().hex
        self._shown, self._next = False, -1.0

    @classmethod
    def of_running_cell(cls) -> Self | None:
        """Return a new output, or None outside of notebooks; nothing is shown until `show` is called."""
        ipython = sys.modules.get("IPython")
        get_shell = getattr(ipython, "get_ipython", None)  # None also while it is being imported
        shell = None if get_shell is None else get_shell()
        return None if shell is None or not hasattr(shell, "kernel") else cls(ipython)  # else a terminal

    def show(self, make: Callable[[], tuple[str, str]], *, at_once: bool = False) -> None:
        """Show something new, unless the last time was too short ago.

        Args:
            make: Returns it as HTML and as text, for frontends without HTML.
            at_once: Whether to show it in any case.
        """
        begin = self._clock()
        if begin < self._next and not at_once:
            return
        html, plain = make()
        self._ipython.display.display(
            {"text/html": html, "text/plain": plain}, raw=True, display_id=self._identity, update=self._shown
        )
        self._shown = True
        end = self._clock()
        self._next = end + max(_INTERVAL, (end - begin) / _SHARE)
