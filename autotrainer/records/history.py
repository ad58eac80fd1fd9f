"""The history of a run in columns, which rules read. Its memory is bounded however long the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.history_tables import EpochTable, Table, TableState
from autotrainer.records.schema import Bounds, Count, RecordError, plain
from autotrainer.records.signals import LAYER_COLUMNS, MAX_TERMS, STEP_COLUMNS, Floats, LayerInfo, StepStats
from autotrainer.records.task import TargetSummary

__all__ = ["HistoryState", "RunHistory"]

_MAX_BYTES = 8_000_000
_VALUES, _TERM_VALUES = 4096, 1024
_MAX_LAYERS, _MAX_NAMES = 100_000, 1000
"""Layers, and names of values of epochs, that `RunHistory.from_state` accepts."""
_ROUNDING = 1e-6
"""By how much a share may exceed 1."""
_ROUNDING_OF_EPOCHS = 1e-9
"""Error of an interpolated epoch, at most."""


@dataclass(frozen=True, slots=True)
class HistoryState:
    """A stored `RunHistory`: what its `to_dict` returns, rebuilt."""

    step_columns: tuple[str, ...]
    layer_columns: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    step: Annotated[int, Bounds(-1)]
    epoch: Count
    scalar_table: TableState
    layer_table: TableState
    losses: TableState
    ends: TableState
    epochs: Mapping[str, TableState]
    terms: Mapping[str, TableState]
    targets: TargetSummary


class RunHistory:
    """Statistics of sampled steps, losses of single steps, and values of epochs.

    The arrays that the methods return are views: treat them as read-only. All of them are in step order.

    Args:
        layers: The layers of the model, in forward order: the rows of the layer table.

    Attributes:
        targets: Summary of all targets so far.
        step: 0-based latest step, sampled or not; -1 before the first.
        epoch: 0-based current epoch: the number of epochs that have ended.
        finished: Whether the training ran to its end, rather than still running or being interrupted.
        changes: Number of additions so far.
    """

    def __init__(self, layers: Sequence[LayerInfo] = ()) -> None:
        self.layers: tuple[LayerInfo, ...] = tuple(layers)
        row_bytes = 8 * len(LAYER_COLUMNS) * max(1, len(self.layers))
        capacity = int(np.clip(_MAX_BYTES // row_bytes, 64, 1024))
        self._scalars = Table((len(STEP_COLUMNS),), capacity)
        self._layers = Table((len(self.layers), len(LAYER_COLUMNS)), capacity)
        self._losses = Table((), _VALUES)
        self._epochs: dict[str, EpochTable] = {}
        self._terms: dict[str, Table] = {}
        self._ends = EpochTable()  # by key alone: epochs and their last steps
        self.targets = TargetSummary()
        self.step = -1
        self.epoch = 0
        self.finished = False
        self.changes = 0

    def add_step(
        self, stats: StepStats, losses: Sequence[tuple[int, float]] = (), targets: TargetSummary | None = None
    ) -> None:
        """Append a sampled step.

        Args:
            stats: Statistics of the step.
            losses: (step, loss) pairs of unsampled steps before it whose loss is known.
            targets: Summary of all targets so far.
        """
        self.changes += 1
        self.step, self.epoch = max(self.step, stats.step), stats.epoch
        self._scalars.add((stats.step, stats.epoch), stats.scalars)
        self._layers.add((stats.step, stats.epoch), stats.layers)
        self.add_losses(losses)
        loss = stats.scalars[STEP_COLUMNS.index("loss")]
        if not np.isnan(loss):
            self._losses.add((stats.step, stats.epoch), np.asarray(loss))
        self._add_terms((stats.step, stats.epoch), stats.terms)
        if targets is not None:
            self.targets = targets

    def _add_terms(self, key: tuple[int, int], terms: Mapping[str, float]) -> None:
        for name, value in terms.items():
            if name not in self._terms and len(self._terms) < MAX_TERMS:
                self._terms[name] = Table((), _TERM_VALUES)
            if name in self._terms and not np.isnan(value):
                self._terms[name].add(key, np.asarray(value, np.float64))

    def add_losses(self, losses: Sequence[tuple[int, float]], terms: Mapping[str, float] | None = None) -> None:
        """Append (step, loss) pairs of unsampled steps whose loss is known, and terms of the loss of the last one."""
        self.changes += 1
        if losses and terms:
            self._add_terms((losses[-1][0], self.epoch), terms)
        for step, loss in losses:
            self._losses.add((step, self.epoch), np.asarray(loss, np.float64))

    def add_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> bool:
        """End an epoch and append its values.

        Up to 1,024 epochs are all kept, of more between 512 and 1,024 that are evenly spread, and the latest.

        Args:
            epoch: 0-based epoch that has ended. If it has ended before, it and those after it are counted again.
            step: Its last step.
            values: ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy`` and any others, by name; values that are
                not finite are stored as infinity.

        Returns:
            Whether it is kept when the next epoch has ended; if not, all is then as if it had not been added.
        """
        self.changes += 1
        if (self._ends.keys[-1:, 0] >= epoch).any():
            self._ends = self._ends.where(self._ends.keys[:, 0] < epoch)
            self._epochs = {name: table.where(table.keys[:, 0] < epoch) for name, table in self._epochs.items()}
        self.step, self.epoch = max(self.step, step), epoch + 1
        for table in (self._ends, *self._epochs.values()):
            table.drop_temporary()
        kept = self._ends.add((epoch, step), np.asarray(0.0))
        for name, value in values.items():
            if name not in self._epochs:
                self._epochs[name] = EpochTable()
            finite = value if np.isfinite(value) else np.inf
            kept |= self._epochs[name].add((epoch, step), np.asarray(finite, np.float64))
        return kept

    def until(self, epoch: int) -> RunHistory:
        """Return a copy of the history as it was at the beginning of an epoch (>= 1), to continue from there."""
        end = self.step_of_epoch(epoch - 1)
        past = RunHistory(self.layers)
        past._scalars, past._layers, past._losses = (
            table.where(table.keys[:, 0] <= end) for table in (self._scalars, self._layers, self._losses)
        )
        past._terms = {name: table.where(table.keys[:, 0] <= end) for name, table in self._terms.items()}
        past._ends = self._ends.where(self._ends.keys[:, 0] < epoch)
        past._epochs = {name: table.where(table.keys[:, 0] < epoch) for name, table in self._epochs.items()}
        if not past.has_ended(epoch - 1):
            past._ends.add((epoch - 1, end), np.asarray(0.0))
        past.targets, past.step, past.epoch = self.targets, end, epoch
        return past

    def to_dict(self) -> dict[str, Any]:
        """Return the history as plain values for JSON; see `from_state`."""
        state = {
            "step_columns": STEP_COLUMNS,
            "layer_columns": LAYER_COLUMNS,
            "layers": [asdict(layer) for layer in self.layers],
            "step": self.step,
            "epoch": self.epoch,
            "scalar_table": self._scalars.to_dict(),
            "layer_table": self._layers.to_dict(),
            "losses": self._losses.to_dict(),
            "ends": self._ends.to_dict(),
            "epochs": {name: table.to_dict() for name, table in self._epochs.items()},
            "terms": {name: table.to_dict() for name, table in self._terms.items()},
            "targets": asdict(self.targets),
        }
        values: dict[str, Any] = plain(state)
        return values

    @classmethod
    def from_state(cls, state: HistoryState) -> Self:
        """Rebuild a history that this or another version has stored.

        Raises:
            RecordError: If a table is damaged, or larger than it can be.
        """
        if len(state.layers) > _MAX_LAYERS or len(state.epochs) > _MAX_NAMES or len(state.terms) > MAX_TERMS:
            raise RecordError(f"at most {_MAX_LAYERS} layers, {_MAX_NAMES} values and {MAX_TERMS} terms are possible")
        history = cls(state.layers)
        history._scalars.fill(state.scalar_table, (state.step_columns, STEP_COLUMNS))
        history._layers.fill(state.layer_table, (state.layer_columns, LAYER_COLUMNS))
        history._losses.fill(state.losses)
        history._ends.fill(state.ends)
        history._epochs = {name: EpochTable().fill(table) for name, table in state.epochs.items()}
        history._terms = {name: Table((), _TERM_VALUES).fill(table) for name, table in state.terms.items()}
        history.targets, history.step, history.epoch = state.targets, state.step, state.epoch
        return history

    @property
    def steps(self) -> NDArray[np.int64]:
        """Numbers of the sampled steps, shape (samples,)."""
        return self._scalars.keys[:, 0]

    def scalar(self, column: str) -> Floats:
        """Return one of `STEP_COLUMNS` over the sampled steps, shape (samples,)."""
        return self._scalars.rows[:, STEP_COLUMNS.index(column)]

    @property
    def data_losses(self) -> Floats:
        """Loss of the sampled steps' outputs alone: ``data_loss`` where it is measured, else ``loss``."""
        alone = self.scalar("data_loss")
        return np.where(np.isnan(alone), self.scalar("loss"), alone)

    def layer(self, column: str) -> Floats:
        """Return one of `LAYER_COLUMNS` over the sampled steps, shape (samples, layers)."""
        return self._layers.rows[:, :, LAYER_COLUMNS.index(column)]

    @property
    def losses(self) -> tuple[NDArray[np.int64], Floats]:
        """All known training losses of single steps: (steps, values)."""
        return self._losses.keys[:, 0], self._losses.rows

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the terms of the loss; empty if it has one only, or they are unknown."""
        return tuple(self._terms)

    def term(self, name: str) -> tuple[NDArray[np.int64], Floats]:
        """Return the sampled steps in which a term of the loss is known, and its values; infinity if not finite."""
        table = self._terms[name]
        return table.keys[:, 0], table.rows

    @property
    def epoch_names(self) -> tuple[str, ...]:
        """Names of the values recorded at the end of epochs."""
        return tuple(self._epochs)

    def epochs(self, name: str) -> tuple[NDArray[np.int64], Floats]:
        """Return the epochs at whose end a value was recorded, and the values; both empty if it never was.

        Accuracies of which any exceeds 1 are in percent; they are returned as shares.
        """
        table = self._epochs.get(name)
        if table is None:
            return np.zeros(0, np.int64), np.zeros(0)
        percent = name in ("accuracy", "val_accuracy") and bool((table.rows > 1 + _ROUNDING).any())
        return table.keys[:, 0], table.rows / 100 if percent else table.rows

    def step_of_epoch(self, epoch: int) -> int:
        """Return the last step of an epoch that has ended, or the latest step if that is unknown.

        Between epochs that are kept, it is interpolated.
        """
        epochs, steps = self._ends.keys.T
        if not (epochs.size and epochs[0] <= epoch <= epochs[-1]):
            return self.step
        return round(float(np.interp(epoch, epochs, steps)))

    @property
    def epoch_ends(self) -> NDArray[np.int64]:
        """The last steps of the epochs that are kept, shape (epochs,)."""
        return self._ends.keys[:, 1]

    @property
    def ended_epochs(self) -> NDArray[np.int64]:
        """The 0-based epochs of `epoch_ends`, shape (epochs,)."""
        return self._ends.keys[:, 0]

    @property
    def steps_per_epoch(self) -> Floats:
        """Mean steps of an epoch between each two ends that are kept, shape (epochs - 1,)."""
        return np.asarray(np.diff(self.epoch_ends) / np.diff(self.ended_epochs))

    @property
    def next_kept_epoch(self) -> int:
        """The next epoch that is kept, whatever its values."""
        return self._ends.next_kept

    def epochs_of(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the 0-based epochs of steps, shape (steps,), as far as they have ended; else the one that goes on.

        Between epochs that are kept, they are interpolated.
        """
        epochs, ends = self._ends.keys.T
        if not epochs.size:
            return np.zeros(len(steps), np.int64)
        at: Floats = np.interp(steps, ends, epochs, right=epochs[-1] + 1)
        return np.ceil(at - _ROUNDING_OF_EPOCHS).astype(np.int64)

    def has_ended(self, epoch: int) -> bool:
        """Return whether the end of an epoch is kept, as it is of the latest."""
        return bool((self._ends.keys[:, 0] == epoch).any())

    @property
    def epoch_of_step(self) -> int:
        """The 0-based epoch of the latest step; right after the end of an epoch still that one."""
        previous = self.epoch - 1
        return previous if self.has_ended(previous) and self.step <= self.step_of_epoch(previous) else self.epoch

    @property
    def bytes(self) -> int:
        """Memory of the tables in bytes."""
        tables = (self._scalars, self._layers, self._losses, self._ends, *self._epochs.values(), *self._terms.values())
        return sum(table.bytes for table in tables)
