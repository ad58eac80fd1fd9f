"""Passes measurements and findings on to sinks, each on a thread of its own: no sink can delay or end the training."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, thread_time

from autotrainer.monitoring.sinks.scalar_names import ScalarNames
from autotrainer.output import logger
from autotrainer.plugins import describe_error
from autotrainer.records.findings import Finding
from autotrainer.records.signals import LayerInfo, StepStats
from autotrainer.reporting.text import count
from autotrainer.sink import BufferSink, Sink

__all__ = ["CLOSE_SECONDS", "SinkGroup"]

MAX_SAMPLES, MAX_FINDINGS = 100, 1000
"""Samples and findings that wait for a sink, at most: of more, the oldest are dropped."""
MAX_ERRORS = 3
"""Errors in a row after which a sink is switched off."""
CLOSE_SECONDS = 5.0
"""Seconds that closing a monitor waits for its sinks, at most, in all."""
_SLICE = 0.1
"""Seconds after which a wait looks for an interrupt: not every system wakes a thread that waits for another one."""
SHARE = 0.02
"""Share of one core that a sink takes while the training goes on: Python runs one thread at a time, so that work on
another thread would delay each step."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 30.0
"""Seconds of a pause after a call."""

_inherited: list[object] = []
"""Sinks of a parent process. They are kept, so that no finalizer of theirs writes to what the parent has open."""


class SinkGroup:
    """The sinks of one monitor; false if there are none.

    Args:
        sinks: The sinks by name, as messages call them.
    """

    def __init__(self, sinks: Mapping[str, Sink]) -> None:
        self._buffers = [sink for sink in sinks.values() if isinstance(sink, BufferSink)]
        self._workers = [_Worker(name, sink) for name, sink in sinks.items() if not isinstance(sink, BufferSink)]
        self._all: list[BufferSink | _Worker] = [*self._buffers, *self._workers]
        self._layers: Sequence[LayerInfo] | None = None
        self._names = ScalarNames(())
        self.notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._all)

    def step(self, stats: StepStats, layers: Sequence[LayerInfo]) -> None:
        """Pass on a sampled step; ``layers`` are the rows of its table."""
        if self._layers is not layers:
            self._layers, self._names = layers, ScalarNames(layers)
        self._put(stats.step, self._names.of_step(stats))

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on the values of an epoch that ended with a step."""
        self._put(step, self._names.of_epoch(values))

    def _put(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            for sink in self._all:
                sink.scalars(max(step, 0), values)

    def finding(self, finding: Finding) -> None:
        """Pass on a finding."""
        self._names.include(finding.layers)
        for sink in self._all:
            sink.finding(finding)

    def close(self) -> Sequence[str]:
        """Wait until the sinks have got everything, `CLOSE_SECONDS` at most; return sentences about what is lost."""
        for buffer in self._buffers:
            buffer.close()
        for worker in self._workers:
            worker.end()
        deadline = monotonic() + CLOSE_SECONDS
        notes = [worker.wait(max(0.0, deadline - monotonic())) for worker in self._workers]
        self.notes = tuple(note for note in notes if note)
        return self.notes

    def leave(self) -> None:
        """Forget the sinks, in a forked child process: their threads and connections are those of the parent."""
        _inherited.append(self._all)
        self._buffers, self._workers, self._all = [], [], []


class _Lane:
    """A bounded queue of calls of one method of a sink.

    Args:
        call: The method.
        size: Number of calls that wait, at most: of more, the oldest are dropped.
    """

    def __init__(self, call: Callable[..., object], size: int) -> None:
        self._call = call
        self._waiting: deque[tuple[object, ...]] = deque(maxlen=size)
        self._added = self._done = self._errors = 0

    @property
    def lost(self) -> int:
        """Number of calls that have not been made, or failed."""
        return self._added - self._done

    def add(self, *arguments: object) -> None:
        """Add a call to those that wait."""
        self._added += 1
        self._waiting.append(arguments)

    def call_next(self) -> bool:
        """Make the next call, but for none after `MAX_ERRORS` errors in a row; return whether one was waiting.

        Raises:
            BaseException: What the sink raises.
        """
        if not self._waiting:
            return False
        arguments = self._waiting.popleft()
        if self._errors < MAX_ERRORS:
            self._errors += 1
            self._call(*arguments)
            self._errors = 0
            self._done += 1
        return True

    @property
    def closed(self) -> bool:
        """Whether no further calls are made."""
        return self._errors >= MAX_ERRORS


class _Worker:
    """A sink with its thread.

    Neither side ever waits for a lock that the other one holds: the queues are atomic, so that a finalizer, a signal
    handler or a fork at any moment can't block.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self._name, self._sink = name, sink
        self._findings, self._samples = _Lane(sink.finding, MAX_FINDINGS), _Lane(sink.scalars, MAX_SAMPLES)
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._end: SimpleQueue[None] = SimpleQueue()
        self._awake = self._ending = self._late = False
        self._reason = "it is slower than the training"
        # started now: at the end of the interpreter no thread can be
        self._thread = threading.Thread(target=self._run, name=f"autotrainer-{name}", daemon=True)
        self._thread.start()

    def scalars(self, step: int, mapping: Mapping[str, float]) -> None:
        """Add a sample to those that wait."""
        self._samples.add(step, mapping)
        self._notify()

    def finding(self, finding: Finding) -> None:
        """Add a finding to those that wait."""
        self._findings.add(finding)
        self._notify()

    def _notify(self) -> None:
        if not self._awake:
            self._awake = True
            self._wake.put(None)

    def end(self) -> None:
        """Have the thread end once it has passed on what waits."""
        self._ending = True
        self._wake.put(None)
        self._end.put(None)

    def wait(self, seconds: float) -> str:
        """Wait for the thread, and return a sentence about what the sink did not get; empty if it got everything."""
        if threading.current_thread() is not self._thread:
            deadline = monotonic() + seconds
            while self._thread.is_alive() and (left := deadline - monotonic()) > 0:
                self._thread.join(min(left, _SLICE))
        self._late = self._thread.is_alive()
        lost = [
            count(lane.lost, n) for lane, n in ((self._samples, "sample"), (self._findings, "finding")) if lane.lost
        ]
        if self._late:
            return f"sink {self._name} has not ended within {CLOSE_SECONDS:g} s: {' and '.join(lost) or 'nothing'} lost"
        return f"sink {self._name} did not get {' and '.join(lost)}, as {self._reason}" if lost else ""

    def _run(self) -> None:
        with suppress(BaseException):  # of an error without text: it can only end this thread
            while not self._ending:
                self._wake.get()
                self._awake = False  # before reading: what is added from now on wakes the thread again
                self._pass_on()
            self._pass_on()
            try:
                self._sink.close()
            except BaseException as error:  # noqa: BLE001 - as above
                self._report("could not be closed", error)

    def _pass_on(self) -> None:
        """Pass on what waits, findings first."""
        while not self._late:
            begin = thread_time()
            for lane in (self._findings, self._samples):
                try:
                    called = lane.call_next()
                except BaseException as error:  # noqa: BLE001 - as above
                    called = True
                    self._reason = f"it failed: {describe_error(error)}"
                    if lane.closed:
                        part = "findings" if lane is self._findings else "measurements"
                        self._report(f"gets no more {part}, after {MAX_ERRORS} errors in a row", error)
                if called:
                    break
            else:
                return
            pause = min(_LONGEST_PAUSE, (thread_time() - begin) * (1 / SHARE - 1))
            if pause > _SHORTEST_PAUSE and not self._ending:
                with suppress(Empty):
                    self._end.get(timeout=pause)

    def _report(self, text: str, error: BaseException) -> None:
        logger.warning("sink %s %s; the training continues: %s", self._name, text, describe_error(error))
