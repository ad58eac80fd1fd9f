"""What a checkpoint holds of a watched run, so that a resumed one goes on with its history and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autotrainer.adapter.layer_names import match_renumbered, rename_finding, rename_layers
from autotrainer.errors import InputError
from autotrainer.output import logger
from autotrainer.records.findings import Finding
from autotrainer.records.history import HistoryState, RunHistory
from autotrainer.records.schema import RecordError, rebuild
from autotrainer.records.signals import LayerInfo

__all__ = ["MonitorState", "fit_layers", "read_state"]


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


Episodes = tuple[Sequence[Finding], Sequence[Finding]]
"""The current and the resolved findings."""


def fit_layers(history: RunHistory, episodes: Episodes, layers: Sequence[LayerInfo]) -> tuple[RunHistory, Episodes]:
    """Return a restored history and its findings for the layers of the model that goes on.

    A new history begins if the restored one is of another model: it has no row for each layer of this one.
    """
    if [layer.name for layer in history.layers] == [layer.name for layer in layers]:
        return history, episodes
    names = match_renumbered(history.layers, layers)
    if names is not None:
        history.layers = rename_layers(history.layers, names)
        current, resolved = ([rename_finding(each, names) for each in part] for part in episodes)
        return history, (current, resolved)
    logger.warning("the saved history is of a model with other layers: a new history begins")
    anew = RunHistory(layers)
    anew.epoch, anew.step = history.epoch, history.step
    return anew, ((), ())
