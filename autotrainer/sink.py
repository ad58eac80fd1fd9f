"""The base of sinks, which pass the measurements and findings of a run on: to a tracker, a file, a chat.

`autotrainer.watch` takes them as ``sinks=``. Other distributions can add some: see "Extending" in the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from autotrainer.records.findings import Finding, Severity

__all__ = ["Finding", "Severity", "Sink"]


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
