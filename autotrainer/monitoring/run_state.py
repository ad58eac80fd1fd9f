"""What a checkpoint holds of a watched run, so that a resumed one goes on with its history and findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from autotrainer.errors import InputError
from autotrainer.records.findings import Finding
from autotrainer.records.history import HistoryState, RunHistory
from autotrainer.records.schema import RecordError, rebuild

__all__ = ["MonitorState", "read_state"]


@dataclass(frozen=True, slots=True)
class MonitorState:
    """What `Monitor.state_dict` returns, but for the version that wrote it."""

    autotrainer_state: Literal["1"]
    history: HistoryState
    current: tuple[Finding, ...]
    resolved: tuple[Finding, ...]


def read_state(state: Any) -> tuple[RunHistory, MonitorState]:
    """Return the history and the rest of what `Monitor.state_dict` has returned.

    Raises:
        InputError: If it is not such a state, or damaged.
    """
    try:
        stored = rebuild(MonitorState, state)
        return RunHistory.from_state(stored.history), stored
    except RecordError as error:
        raise InputError(
            f"state is not what Monitor.state_dict() has returned ({error}): pass it unchanged, or None to begin anew"
        ) from None
