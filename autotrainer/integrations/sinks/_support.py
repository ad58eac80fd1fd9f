"""What sinks and callbacks share: findings as text, as numbers, and in the ways of trackers."""

from __future__ import annotations

from typing import Any, Self

from autotrainer.records.findings import Finding, Severity

__all__ = ["CopyableSink", "as_scalar", "is_alert", "markdown", "show_in_run", "title"]


class CopyableSink:
    """Base of sinks, so that what holds one, such as a callback, can be copied and pickled.

    A deep copy is the sink itself: both write to the same place. One that was pickled is made anew from its arguments.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), *self._arguments)


def _remake(kind: type[CopyableSink], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CopyableSink:
    return kind(*args, **kwargs)


def is_alert(finding: Finding) -> bool:
    """Return whether a finding is worth an alert: a root that is no mere info."""
    return finding.caused_by is None and finding.severity is not Severity.INFO


def title(finding: Finding) -> str:
    """Return a title of at most 63 characters, which every tracker accepts."""
    return f"autotrainer {finding.severity}: {finding.problem}"[:63]


def markdown(finding: Finding) -> str:
    """Return a finding as one paragraph of Markdown; ``str`` of it has made its names safe to show."""
    text = str(finding)
    for character in "\\`*_{}[]()<>#|!~$":
        text = text.replace(character, f"\\{character}")
    cause = f" Caused by {finding.caused_by}." if finding.caused_by else ""
    return f"**{finding.severity}** at step {finding.step} (epoch {finding.epoch}): {text}{cause}"


def as_scalar(finding: Finding) -> dict[str, float]:
    """Return a finding as a number by name: 2 for an error, 1 for a warning, 0 for an info."""
    number = {Severity.ERROR: 2.0, Severity.WARNING: 1.0}.get(finding.severity, 0.0)
    return {f"autotrainer/findings/{finding.problem}": number}


def show_in_run(run: Any, finding: Finding) -> bool:
    """Write a finding as text (TensorBoard), or as an alert if it is a root (W&B).

    Args:
        run: What a library's logger hands out as the writer or run of its tracker.
        finding: The finding.

    Returns:
        Whether the run is of one of these.
    """
    if hasattr(run, "add_text"):
        run.add_text(f"autotrainer/{finding.problem}", str(finding), finding.step)
        return True
    if not hasattr(run, "alert"):
        return False
    if finding.caused_by is None:
        level = {Severity.ERROR: "ERROR", Severity.WARNING: "WARN"}.get(finding.severity, "INFO")
        run.alert(title=f"autotrainer: {finding.problem}", text=str(finding), level=level)
    return True
