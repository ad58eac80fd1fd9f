"""Watches all trainings of an unmodified script, for ``autotrainer run``."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any

from autotrainer import plugins, registry
from autotrainer.adapter.backend import Backend
from autotrainer.adapter.observer import Recorder
from autotrainer.api import fit
from autotrainer.api.watch import watch
from autotrainer.config import switched_off
from autotrainer.monitoring.monitor import Monitor, is_watched
from autotrainer.output import logger

__all__ = ["Trainings", "watched_frameworks"]

_MAX_TRAININGS = 20
"""Maximum number of watched trainings per script, so that a search over hundreds of models is not slowed down."""


class Trainings:
    """The trainings of one script, which backends open as they begin.

    Args:
        options: Options of `autotrainer.watch` other than ``model``, ``optimizer`` and ``loss_fn``.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._names: list[str] = []
        self._monitors: list[Monitor] = []
        self._steps: list[int | None] = []  # step of each monitor when the latest training began
        self._full = False

    def open(
        self, model: Any, optimizer: Any = None, loss_fn: Any = None, replaces: Sequence[Recorder] = ()
    ) -> Monitor | None:
        """Watch a training that begins.

        Args:
            model: As for `autotrainer.watch`.
            optimizer: The same.
            loss_fn: The same.
            replaces: Monitors of trainings that this one consists of; they are dropped.

        Returns:
            Its monitor; None if it must not be watched: the script already watches it, `autotrainer.fit` runs it, or
            there have been too many trainings.
        """
        self._drop(replaces)
        if switched_off() or is_watched(model) or _is_managed():
            return None
        if len(self._monitors) >= _MAX_TRAININGS:
            if not self._full:
                self._full = True
                logger.warning("%d trainings of this script have been watched; further ones are not", _MAX_TRAININGS)
            return None
        self._close_ended()
        monitor = watch(model, optimizer, loss_fn=loss_fn, **self._options)
        self._names.append(type(model).__name__)
        self._monitors.append(monitor)
        self._steps.append(None)
        return monitor

    def close(self, *, finished: bool) -> list[tuple[str, Monitor]]:
        """Close the monitors of all trainings.

        Args:
            finished: Whether the script ran to its end.

        Returns:
            The name of the model and the monitor of each training with at least one step, in order of their start; also
            of one that another process reports.
        """
        for name, monitor in zip(self._names, self._monitors, strict=True):
            if not (finished or monitor.closed):
                monitor.finish(finished=False)
            monitor.close()
            if monitor.history.step >= 0 and not (len(monitor.history.steps) or monitor.follows):
                steps = monitor.history.step + 1
                logger.warning("%d steps of training a %s were taken, but none could be measured", steps, name)
        pairs = zip(self._names, self._monitors, strict=True)
        return [(name, monitor) for name, monitor in pairs if len(monitor.history.steps) or monitor.follows]

    def _drop(self, monitors: Sequence[Recorder]) -> None:
        """Forget monitors, and their logs."""
        for index in reversed([i for i, monitor in enumerate(self._monitors) if monitor in monitors]):
            monitor = self._monitors.pop(index)
            del self._names[index], self._steps[index]
            monitor.abandon(finished=False)
            if monitor.log_path is not None:
                with suppress(OSError):
                    monitor.log_path.unlink()

    def _close_ended(self) -> None:
        """Close monitors without a step since the previous training began, to release their memory."""
        for index, monitor in enumerate(self._monitors):
            step = monitor.history.step
            if step == self._steps[index]:
                monitor.close()
            self._steps[index] = step


@contextmanager
def watched_frameworks(trainings: Trainings) -> Iterator[None]:
    """Watch every training of frameworks that are imported already, or inside the block."""
    with ExitStack() as stack:
        pending: dict[str, list[Callable[[], None]]] = {}
        for backend in registry.backends():

            def enter(backend: Backend = backend) -> None:
                watch_everything = partial(backend.watch_everything, trainings.open)
                try:
                    stack.enter_context(plugins.isolated(type(backend), watch_everything))
                except Exception as error:  # noqa: BLE001 - an error of autotrainer must not stop the script
                    logger.warning("trainings of %s are not watched: %r", backend.package, error)

            if backend.package in sys.modules:
                enter()
            else:
                pending.setdefault(backend.package, []).append(enter)
        finder = _ImportHook(pending)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            with suppress(ValueError):  # the script may have removed it
                sys.meta_path.remove(finder)


class _ImportHook(MetaPathFinder):
    """Calls functions right after the import of modules, which the other finders find.

    Args:
        pending: Functions to call once, by the name of the module.
    """

    def __init__(self, pending: dict[str, list[Callable[[], None]]]) -> None:
        self._pending = pending

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of the other finders, with a loader that also calls the pending function."""
        if name not in self._pending:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                for callback in self._pending.pop(name, ()):
                    callback()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _is_managed() -> bool:
    """Return whether `autotrainer.fit` runs the training that begins."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != fit.__name__:
        frame = frame.f_back
    return frame is not None
