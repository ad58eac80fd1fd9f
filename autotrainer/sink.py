"""The base of sinks, which pass the measurements and findings of a run on: to a tracker, a file, a chat.

`autotrainer.watch` takes them as ``sinks=``. Other distributions can add some: see "Extending" in the documentation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from autotrainer.records.findings import Finding, Severity

__all__ = ["BufferSink", "Finding", "Severity", "Sink"]


@runtime_checkable
class Sink(Protocol):
    """What `autotrainer.watch` needs of an object in ``sinks``; no base class is needed.

    ```python
    class Prints:
        def scalars(self, step, mapping):
            print(step, mapping["autotrainer/loss"])

        def finding(self, finding):
            print(finding)

        def close(self):
            print("done")

    with autotrainer.watch(model, optimizer, sinks=[Prints()]):
        ...
    ```

    All calls come from one thread per sink, never from the training's, and one after the other. Whatever they raise is
    logged; after three errors in a row a sink gets no further calls but `close`.

    A sink for several trainings, one after the other, may have a method ``reopen()``: `autotrainer.watch` calls it
    first, on the thread of the training, and raises what it raises.
    """

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Take the measurements of a sampled step.

        Args:
            step: 0-based optimizer step; it never decreases, and can recur.
            mapping: Values by name, ``autotrainer/<layer>/<statistic>`` or ``autotrainer/<statistic>``. Infinity stands
                for a value that was measured and is not finite; what was not measured is left out. Other sinks get the
                same object: don't change it.
        """

    def finding(self, finding: Finding, /) -> None:
        """Take a finding that is new, or whose severity has risen."""

    def close(self) -> None:
        """End, after the last verdict; called once for each `autotrainer.watch` that got the sink."""


class BufferSink:
    """A sink that keeps what it gets until it is read: for a logger that only the training's thread may call.

    It is filled on the thread of the training, at once.

    Args:
        size: Maximum number of samples and of findings that are kept: the latest.
    """

    def __init__(self, size: int = 1000) -> None:
        self._scalars: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=size)
        self._findings: deque[Finding] = deque(maxlen=size)

    def scalars(self, step: int, mapping: Mapping[str, float], /) -> None:
        """Keep the measurements of a sampled step."""
        self._scalars.append((step, mapping))

    def finding(self, finding: Finding, /) -> None:
        """Keep a finding."""
        self._findings.append(finding)

    def close(self) -> None:
        """Do nothing: the last findings are read after this."""

    def take_scalars(self) -> list[tuple[int, Mapping[str, float]]]:
        """Return the (step, values by name) pairs since the last call."""
        return [self._scalars.popleft() for _ in range(len(self._scalars))]

    def take_findings(self) -> list[Finding]:
        """Return the findings since the last call."""
        return [self._findings.popleft() for _ in range(len(self._findings))]
