"""What is learned of a run beside its steps: from probes, from a sample of its rows, and from an earlier run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.data import ArrayData
from autotrainer.records.facts import NOT_PROBED
from autotrainer.records.history import RunHistory
from autotrainer.records.row_sample import RowSample
from autotrainer.records.signals import Observation
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.rule import Rule

__all__ = ["CompareLogs", "CompareRows", "LateFacts", "RunProbes"]

_COMPARISON, _KEPT = 0.05, 0.1
"""Seconds that simple models on sampled rows take at most, about, and share of the allowance that is left for them."""
_SETTLED = 16
"""Steps after which a run is compared with an earlier one that it may continue."""

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
        rows, self._rows, self._sampler.kept = self._rows.rows, RowSample(), 0.0
        wanted = any("linear_score" in rule.needs for rule in rules)
        wanted &= history.finished and self._sampler.affordable(_COMPARISON)
        if compare is None or rows is None or not wanted:
            return {}
        with self._sampler.stopwatch, self._sampler.evaluations:
            return compare(rows, history.targets, context)
