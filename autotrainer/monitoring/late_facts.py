"""What is learned of a run beside its steps: from probes, from a sample of its rows, and from an earlier run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.data import ArrayData
from autotrainer.records.facts import NOT_PROBED
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Observation
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.rule import Rule

__all__ = ["CompareLogs", "CompareRows", "LateFacts", "RowSample", "RunProbes"]

_COMPARISON, _LEAST_COMPARISON, _KEPT = 0.05, 0.01, 0.15
"""Seconds that simple models on all and on few sampled rows take, about, and share of the allowance left for them."""
_SETTLED = 16
"""Steps after which a run is compared with an earlier one that it may continue."""

_MAX_ROWS, _MAX_BYTES = 750, 4_000_000
_MIN_ROWS = 20
"""Rows that must fit into the memory; with fewer, nothing can be learned from them."""

_FEW, _MET, _COPIES = 32, 4, 24
"""Most distinct rows that are a table of all inputs there are, how often each must have been met on average, and copies
of each that simple models get: a third is held out, and the others are more than the nearest neighbours of a row."""
_TRUTH_TABLE = 16
"""Rows of a table of zeros and ones that need not recur in the data: all inputs of four bits."""

_Hashes = NDArray[np.uint64]
CompareLogs = Callable[[RunHistory, Path, float], Mapping[str, float]]
RunProbes = Callable[[Callable[[], ProbedModel | None]], tuple[Mapping[str, float], tuple[str, ...]]]
CompareRows = Callable[[ArrayData, TargetSummary, TaskContext], Mapping[str, float]]


class LateFacts:
    """Learns facts once each: see `Monitor` for the functions that find them, each None where it is not wanted.

    Args:
        sampler: Says what is affordable.
        compare_rows: Compares simple models on a sample of the rows.
        compare_logs: Compares the run with an earlier one.
        run_probes: Probes a copy of the model.
    """

    def __init__(
        self,
        sampler: Sampler,
        compare_rows: CompareRows | None,
        compare_logs: CompareLogs | None,
        run_probes: RunProbes | None,
    ) -> None:
        self._sampler = sampler
        self._compare_rows, self._compare_logs, self._run_probes = compare_rows, compare_logs, run_probes
        self._rows = RowSample()
        self._began = time.time()
        sampler.kept = 0.0 if compare_rows is None else _KEPT

    def stop(self) -> None:
        """Learn nothing more."""
        self._compare_rows = self._compare_logs = self._run_probes = None

    def resume(self) -> None:
        """Look for no earlier run: its state was given."""
        self._compare_logs = None

    def add_rows(self, observation: Observation) -> None:
        """Keep a sample of the rows of a step, if any are compared."""
        if self._compare_rows is not None and observation.inputs is not None and observation.targets is not None:
            self._rows.add(observation.inputs, observation.targets)

    @property
    def wants_probe(self) -> bool:
        """Whether the model is to be probed, and has not been yet."""
        return self._run_probes is not None

    def not_probed(self) -> Mapping[str, float]:
        """Return the fact that the model could not be probed, where it was to be."""
        missing = float(NOT_PROBED.index("no call of it was observed"))
        return {"not_probed": missing} if self.wants_probe else {}

    def probe(self, make: Callable[[], ProbedModel | None]) -> tuple[Mapping[str, float], tuple[str, ...]]:
        """Probe a copy of the model, once, and return facts and the names of the inputs.

        Args:
            make: Returns the copy.

        Raises:
            Exception: Whatever the probes raise.
        """
        run, self._run_probes = self._run_probes, None
        if run is None:
            return {}, ()
        begin = perf_counter()
        facts, input_fields = run(make)
        return {**facts, "probe_seconds": perf_counter() - begin}, input_fields

    def of_logs(self, history: RunHistory, log: Path | None, *, ended: bool) -> Mapping[str, float]:
        """Compare the run with an earlier one in the folder of its log, once it has begun in earnest.

        Raises:
            Exception: Whatever the comparison raises.
        """
        if not (ended or history.step >= _SETTLED):
            return {}
        compare, self._compare_logs = self._compare_logs, None
        return {} if compare is None or log is None else compare(history, log, self._began)

    def of_rows(self, history: RunHistory, context: TaskContext, rules: Sequence[Rule]) -> Mapping[str, float]:
        """Compare simple models on the sampled rows, once the training has ended, if time allows.

        Raises:
            Exception: Whatever the comparison raises.
        """
        compare, self._compare_rows = self._compare_rows, None
        sample, self._rows, self._sampler.kept = self._rows, RowSample(), 0.0
        rows = sample.rows
        if compare is None or rows is None or not any("linear_score" in rule.needs for rule in rules):
            return {}
        distinct = rows.rows if sample.recurs and _is_table(rows, history, context) else 0
        if distinct:
            rows = rows.take(np.tile(np.arange(distinct), _COPIES))
        cost = max(_LEAST_COMPARISON, _COMPARISON * rows.rows / _MAX_ROWS)
        if not (history.finished and self._sampler.affordable(cost)):
            return {}
        with self._sampler.stopwatch, self._sampler.evaluations:
            facts = compare(rows, history.targets, context)
        return {**facts, "simple_distinct": float(distinct)} if facts and distinct else facts


def _is_table(rows: ArrayData, history: RunHistory, context: TaskContext) -> bool:
    """Return whether distinct rows are all there are in the data: each recurs there, or they are a truth table."""
    sizes = history.scalar("batch_size")
    most = np.nanmax(sizes) if np.isfinite(sizes).any() else 0.0
    in_epoch = max(most, context.train_rows or 0.0, context.asked.get("epoch_batches", 0.0) * most)
    if in_epoch >= _MET * rows.rows:
        return True
    classes = context.kind(history.targets) != "regression"
    return classes and 2 < rows.rows <= _TRUTH_TABLE and len(np.unique(rows.inputs)) == 2


class RowSample:
    """Keeps the distinct rows whose inputs have the smallest hashes: a uniform sample, in random order.

    It depends neither on the order of the rows nor on how often they recur, and needs no random numbers (bottom-k
    sketch: Cohen and Kaplan, Summarizing Data Using Bottom-k Sketches, PODC 2007). At most 750 rows and 4 MB.
    """

    def __init__(self) -> None:
        self._inputs: NDArray[Any] | None = None
        self._targets: NDArray[Any] = np.zeros(0)
        self._hashes: _Hashes = np.zeros(0, np.uint64)
        self._weights: _Hashes = np.zeros(0, np.uint64)
        self._capacity = self._met = 0
        self._few = True

    @property
    def recurs(self) -> bool:
        """Whether all rows that were added are few, each was met several times, and always with the same target."""
        return self._few and self._met >= _MET * len(self._hashes) > 0

    @property
    def rows(self) -> ArrayData | None:
        """The sampled rows, in random order; None if there are none."""
        return None if self._inputs is None or not self._capacity else ArrayData(self._inputs, self._targets)

    def add(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Add rows of a batch; a batch of another form than the first one is ignored.

        Args:
            inputs: Shape (rows, ...).
            targets: Shape (rows, ...).
        """
        inputs, targets = np.ascontiguousarray(inputs), np.asarray(targets)
        if len(inputs) != len(targets) or not inputs.size or not targets.size or inputs.dtype.kind not in "biuf":
            return
        if self._inputs is None:
            self._begin(inputs, targets)
        assert self._inputs is not None
        same = all(
            new.shape[1:] == kept.shape[1:] and new.dtype == kept.dtype
            for new, kept in ((inputs, self._inputs), (targets, self._targets))
        )
        if not self._capacity or not same:
            return
        all_targets, all_hashes = targets, self._hash(inputs)
        hashes = all_hashes
        if len(self._hashes) == self._capacity:
            smaller = hashes < self._hashes[-1]
            inputs, targets, hashes = inputs[smaller], targets[smaller], hashes[smaller]
        if not len(hashes):
            return
        joined, first = np.unique(np.concatenate([self._hashes, hashes]), return_index=True)
        kept = first[: self._capacity]
        self._hashes = joined[: self._capacity]
        self._inputs = np.concatenate([self._inputs, inputs])[kept]
        self._targets = np.concatenate([self._targets, targets])[kept]
        self._count(all_hashes, all_targets)

    def _count(self, hashes: _Hashes, targets: NDArray[Any]) -> None:
        """Count the rows of a batch, and see whether any has another target than when it was met first."""
        self._few = self._few and len(self._hashes) <= min(_FEW, self._capacity - 1)
        if self._few:
            self._met += len(hashes)
            self._few = bool((self._targets[np.searchsorted(self._hashes, hashes)] == targets).all())

    def _begin(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        capacity = min(_MAX_ROWS, _MAX_BYTES // (inputs[0].nbytes + targets[0].nbytes))
        self._capacity = capacity if capacity >= _MIN_ROWS else 0
        self._inputs, self._targets = inputs[:0].copy(), targets[:0].copy()
        words = -(-inputs[0].nbytes // 8)
        self._weights = np.random.default_rng(0).integers(0, 1 << 63, words, np.uint64) * np.uint64(2) + np.uint64(1)

    def _hash(self, inputs: NDArray[Any]) -> _Hashes:
        """Return a hash of each row: a sum of its words with random odd weights, mixed (Steele et al., OOPSLA 2014)."""
        content = inputs.reshape(len(inputs), -1).view(np.uint8)
        words = np.zeros((len(inputs), 8 * len(self._weights)), np.uint8)
        words[:, : content.shape[1]] = content
        mixed: _Hashes = (words.view(np.uint64) * self._weights).sum(axis=1, dtype=np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))
