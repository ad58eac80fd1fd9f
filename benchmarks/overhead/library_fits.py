"""The timed ``fit`` of a library, plain or with a callback: one long call in a thread, which waits between blocks."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.overhead.settings import Block

__all__ = ["STEPS", "FitTraining", "Gate"]

STEPS = 10**7
"""Planned steps: many, since most steps of a training are far from its end."""


class FitTraining:
    """One model, trained on one batch repeatedly by a library: a module of `benchmarks.overhead.fits`.

    A monitor that was attached anew in each block would sample the start of each: so a block is a part of one epoch.

    Args:
        library: Name of the module.
        model: A name in `MODELS`.
        x: Inputs of the batch.
        y: Classes of the batch.
        setting: A name in `CALLBACKS`, or the control.
        folder: Where the setting may write.
    """

    def __init__(self, library: str, model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path) -> None:
        build = importlib.import_module(f"benchmarks.overhead.fits.{library}").build
        self._gate = Gate()
        self.network, fit = build(model, x, y, setting, folder, self._gate)
        self.parameters = 0 if library == "keras" else sum(int(p.nbytes) for p in self.network.parameters())
        self._thread = threading.Thread(target=self._run, args=(fit,), daemon=True)
        self._error: BaseException | None = None

    def attach(self) -> None:
        """Do nothing: the setting is part of the ``fit``."""

    def block(self, steps: int) -> Block:
        """Train that many steps.

        Raises:
            RuntimeError: If the ``fit`` has failed.
        """
        begun = time.process_time()
        seconds = self._gate.open(steps, self._thread)
        if self._error is not None or not seconds:
            raise RuntimeError("fit has ended early") from self._error
        return seconds, time.process_time() - begun

    def close(self) -> None:
        """End the ``fit``."""
        if self._thread.is_alive():
            self._gate.stop()
            self._thread.join()

    def _run(self, fit: Callable[[], object]) -> None:
        try:
            fit()
        except BaseException as error:  # noqa: BLE001 - raised by `block`
            self._error = error
        finally:
            self._gate.leave()


class Gate:
    """Lets a ``fit`` in a thread take a number of steps, and notes how long each takes."""

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._left, self._last = 0, 0.0
        self._seconds: list[float] = []
        self.stopped = False
        """Whether the ``fit`` is to end."""

    def open(self, steps: int, thread: threading.Thread) -> list[float]:
        """Wait for that many steps; return the seconds of each but the first, which may follow a pause."""
        self._seconds, self._left = [], steps
        if thread.ident is None:
            thread.start()
        else:
            self._go.release()
        self._done.acquire()
        return self._seconds

    def pass_through(self) -> None:
        """Note the end of a step, and wait for the next block after the last one."""
        now = time.perf_counter()
        if self._last:
            self._seconds.append(now - self._last)
        self._last, self._left = now, self._left - 1
        if not self._left:
            self._last = 0.0
            self._done.release()
            self._go.acquire()

    def stop(self) -> None:
        """Have the ``fit`` end after the next step."""
        self.stopped, self._left = True, -1
        self._go.release()

    def leave(self) -> None:
        """Note the end of the ``fit``."""
        self._done.release()
