"""Watching the trainings of a script that knows nothing of it: see ``autotrainer run``."""

from __future__ import annotations

import importlib.machinery
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any

from autotrainer import registry
from autotrainer.api import fit
from autotrainer.api.watch import watch
from autotrainer.config import switched_off
from autotrainer.monitoring.monitor import Monitor, is_watched

__all__ = ["Trainings", "watched_frameworks"]

logger = logging.getLogger("autotrainer")

_MOST = 20
"""Trainings that are watched in one script: a search over hundreds of models is to go on as fast as without us."""


class Trainings:
    """The trainings of one script, opened by backends as they begin.

    Args:
        options: Of `autotrainer.watch`, but for ``model``, ``optimizer`` and ``loss_fn``.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._names: list[str] = []
        self._monitors: list[Monitor] = []
        self._steps: list[int | None] = []  # of each monitor, when the latest training began
        self._full = False

    def open(self, model: Any, optimizer: Any = None, loss_fn: Any = None) -> Monitor | None:
        """Watch a training that begins.

        Args:
            model: As for `autotrainer.watch`.
            optimizer: The same.
            loss_fn: The same.

        Returns:
            Its monitor; None where it is to be left alone: the script watches it, `autotrainer.fit` runs it, or there
            have been too many.
        """
        if switched_off() or is_watched(model) or _is_managed():
            return None
        if len(self._monitors) >= _MOST:
            if not self._full:
                self._full = True
                logger.warning("%d trainings have been watched in this script: those that follow are not", _MOST)
            return None
        self._close_ended()
        monitor = watch(model, optimizer, loss_fn=loss_fn, **self._options)
        self._names.append(type(model).__name__)
        self._monitors.append(monitor)
        self._steps.append(None)
        return monitor

    def close(self, *, finished: bool) -> list[tuple[str, Monitor]]:
        """End the watch of all trainings.

        Args:
            finished: Whether the script came to its end.

        Returns:
            Those in which there was a step, each with the name of its model, in the order in which they began.
        """
        for monitor in self._monitors:
            if not (finished or monitor.closed):
                monitor.finish(finished=False)
            monitor.close()
        both = zip(self._names, self._monitors, strict=True)
        return [(name, monitor) for name, monitor in both if len(monitor.history.steps)]

    def _close_ended(self) -> None:
        """Let go of trainings that took no step between the beginnings of the two latest ones, for their memory."""
        for place, monitor in enumerate(self._monitors):
            step = monitor.history.step
            if step == self._steps[place]:
                monitor.close()
            self._steps[place] = step


@contextmanager
def watched_frameworks(trainings: Trainings) -> Iterator[None]:
    """Have each training of a framework watched that is imported in the block, or has been before."""
    with ExitStack() as stack:
        waiting: dict[str, Callable[[], None]] = {}
        for backend in registry.backends():

            def enter(open_all: Callable[..., Any] = backend.watch_everything, name: str = backend.package) -> None:
                try:
                    stack.enter_context(open_all(trainings.open))
                except Exception as error:  # noqa: BLE001 - nothing of ours may stop the script
                    logger.warning("trainings of %s are not watched: %r", name, error)

            if backend.package in sys.modules:
                enter()
            else:
                waiting[backend.package] = enter
        finder = _Finder(waiting)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds nothing itself: has something done right after the import of a module that the other finders find.

    Args:
        waiting: What to do, once, by the name of the module.
    """

    def __init__(self, waiting: dict[str, Callable[[], None]]) -> None:
        self._waiting = waiting

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders find, with a loader that also does what waits for it."""
        if name not in self._waiting:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                then = self._waiting.pop(name, None)
                if then is not None:
                    then()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _is_managed() -> bool:
    """Say whether `autotrainer.fit` is what runs the training that begins."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != fit.__name__:
        frame = frame.f_back
    return frame is not None
