"""Diagnostics of `fit` and `Loop`: experiments that answer what the statistics of a training can't.

Their results are facts (`FACTS`) that rules read from the context, and so they are also in the run log. A diagnostic
runs only if a rule in force needs its result. Those of the data alone run first; the others run only if the baseline
training came out poorly and its cause is unknown. They pass some rows through the trained model and fit baseline models
on some rows, which is charged: at most a twentieth of one training. If the learning rate is in doubt, a range test of a
few dozen steps looks for a better one: at most a tenth. If training ended in non-finite values, it is replayed up to
the first of them: at most a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.adapter.spec import Trained, TrainingSpec
from autotrainer.adapter.trainer import Trainer
from autotrainer.diagnostics.baseline_models import features, make_problem, operations
from autotrainer.diagnostics.lr_range_test import RangeTestRun, rates_around, suggested_rate
from autotrainer.diagnostics.nonfinite_search import NonfiniteReplay, ended_nonfinite, suspect_steps
from autotrainer.diagnostics.train_val_overlap import shared_inputs
from autotrainer.edits import SetLearningRate
from autotrainer.output import logger
from autotrainer.records.data import ArrayData, Data, arrays_of, map_arrays
from autotrainer.records.findings import Finding, Severity
from autotrainer.scoring.scorer import Scorer
from autotrainer.scoring.significance import row_gains
from autotrainer.training.base_run import BaseRun
from autotrainer.training.budget import Budget

__all__ = ["OVERLAP_FACTS", "ROWS", "Diagnostics", "cause_unknown", "data_facts", "rate_in_doubt"]

ROWS = 1000
"""Maximum number of rows of the training and of the validation data that diagnostics use."""
_MIN_ROWS = 60
"""Minimum number of rows: with fewer, no difference is clearly more than chance."""
_SIZES = (60, 90, 130, 180, 250, 350, 500, 700)
"""Rows that baseline models are fitted on: as many as the work allows."""
_SHARE = 0.05
"""Maximum work of all of them, in baseline trainings: one half for the model, one half for baseline models."""
_STEPS, _MIN_STEPS, _RATE_SHARE = 60, 30, 0.1
"""Steps of a range test: maximum, minimum, and as a share of the baseline's steps."""
_MEASURED = frozenset({"first_step", "typical_step"})
"""Evidence on the size of steps: it suggests a rate as well as a range test would, and costs nothing."""

_REPLAY_SHARE = 0.25
"""Maximum work of the search for the first non-finite value, in baseline trainings: nearly always it arises early."""

_READ_ROWS, _READ_BYTES = 5000, 1 << 27
"""Maximum rows of a loader or stream, and bytes of their inputs, that are compared for overlap: about a second, unless
rows are read from a disk."""

_DATA_FACTS = ("constant_targets", "shared_inputs", "shared_input_share", "expected_shared_share")
_BASELINE_FACTS = ("linear_score", "neighbour_score", "tree_score", "trivial_score", "held_out_rows", "simple_features")
OVERLAP_FACTS = frozenset(_DATA_FACTS[1:])
"""Facts that need both training and validation data."""
_MODEL_FACTS = ("train_score", "permuted_score", "input_gain", "input_gain_error")

_NO_CAUSE = frozenset(
    {"not_learning", "slow_convergence", "overfitting", "too_few_epochs", "insufficient_capacity", "data_leakage"}
)
"""Problems that describe an outcome, or something else, but not its cause."""


def cause_unknown(findings: Sequence[Finding], above_trivial: bool) -> bool:
    """Return whether a training came out poorly and no finding is the cause.

    Args:
        findings: Its findings.
        above_trivial: Whether its score is clearly above that of the trivial predictor.
    """
    errors = [f for f in findings if f.severity is Severity.ERROR and f.problem != "data_leakage"]
    roots = [f for f in errors if f.caused_by is None]
    return (bool(roots) or not above_trivial) and all(f.problem in _NO_CAUSE for f in roots)


def rate_in_doubt(findings: Sequence[Finding]) -> bool:
    """Return whether another learning rate may fix an error without a root, and no measured step size suggests one."""
    roots = [f for f in findings if f.severity is Severity.ERROR and f.caused_by is None]
    measured = any(_MEASURED.intersection(f.evidence) for f in roots)
    return not measured and any("scale_learning_rate" in f.repairs for f in roots)


def data_facts(facts: Mapping[str, float]) -> dict[str, float]:
    """Return the facts that hold for every training on the same data."""
    return {name: value for name, value in facts.items() if name in (*_DATA_FACTS, *_BASELINE_FACTS)}


@dataclass(frozen=True)
class Diagnostics:
    """Runs the diagnostics of one training; see the module.

    Attributes:
        trainer: Reads streams, and runs short trainings.
        scorer: Scores rows.
        budget: Has the work of one baseline training.
        train: Training data.
        validation: Validation data.
        needs: Names of the facts that rules and repairs in force read.
        seed: Seed of the choice of rows.
    """

    trainer: Trainer
    scorer: Scorer
    budget: Budget
    train: Data
    validation: Data
    needs: frozenset[str]
    seed: int

    def of_data(self) -> dict[str, float]:
        """Return facts of the data before the training, as far as they are arrays; streams are read after it.

        A failure, for lack of memory or because a type has no order, is logged, and the facts are left out.
        """
        try:
            return self._array_facts()
        except Exception as error:  # noqa: BLE001 - the training does without
            logger.warning("a diagnostic of the data failed, and its facts are left out: %r", error)
            return {}

    def _array_facts(self) -> dict[str, float]:
        facts: dict[str, float] = {}
        if not isinstance(self.train, ArrayData):
            return facts
        targets = self.train.targets
        if "constant_targets" in self.needs:
            facts["constant_targets"] = float(bool((targets == targets[:1]).all()))
        if isinstance(self.validation, ArrayData) and self.needs.intersection(OVERLAP_FACTS):
            facts |= shared_inputs(self.train, self.validation)
        return facts

    def _stream_facts(self) -> dict[str, float]:
        """Return the overlap of the first rows of loaders and streams; nothing for arrays, which `of_data` compares.

        They are read after a training: one that can be read only once would be used up before it.
        """
        if isinstance(self.train, ArrayData) and isinstance(self.validation, ArrayData):
            return {}
        try:
            train, held_out = self._first_rows(self.train), self._first_rows(self.validation)
            return {} if train is None or held_out is None else shared_inputs(train, held_out)
        except Exception as error:  # noqa: BLE001 - the training is done without
            logger.warning("a diagnostic of the data failed, and its facts are left out: %r", error)
            return {}

    def _first_rows(self, data: Data) -> ArrayData | None:
        """Return all rows of arrays, and as many rows of a stream as may be read."""
        if isinstance(data, ArrayData):
            return data
        one = self.trainer.sample(data, 1)
        if one is None or not one.rows:
            return None
        size = sum(array.nbytes for array in arrays_of(one.inputs)) / one.rows
        return self.trainer.sample(data, max(1, min(_READ_ROWS, int(_READ_BYTES / max(size, 1.0)))))

    def of_training(self, trained: Trained, run: BaseRun) -> None:
        """Run diagnostics on a training that has ended, and report the facts to its monitor.

        Args:
            trained: The trained model.
            run: The core's side of the training; accounts for the work. What the budget does not allow is left out.
        """
        if "first_bad_step" in self.needs and ended_nonfinite(run.monitor.findings):
            self._find_first_nonfinite(run)
        if self.needs.intersection(OVERLAP_FACTS) and "shared_inputs" not in run.monitor.context.asked:
            run.monitor.learn(self._stream_facts())
        if cause_unknown(run.monitor.findings, self.scorer.above_trivial(run.score)):
            self._explain_outcome(trained, run)
        if "suggested_rate" in self.needs and rate_in_doubt(run.monitor.findings):
            self._test_rates(run)

    def _explain_outcome(self, trained: Trained, run: BaseRun) -> None:
        half = _SHARE / 2 * (self.budget.unit or 0)
        rows = min(ROWS, int(half / (3 * run.operations)))
        if rows < _MIN_ROWS or not self.needs.intersection(_MODEL_FACTS + _BASELINE_FACTS):
            return
        train, held_out = (self._sample(data, rows) for data in (self.train, self.validation))
        if train is None or held_out is None or min(train.rows, held_out.rows) < _MIN_ROWS:
            return
        if self.needs.intersection(_MODEL_FACTS):
            run.monitor.learn(self._model_facts(trained, train, run))
        if self.needs.intersection(_BASELINE_FACTS):
            run.monitor.learn(self._baseline_facts(trained, train, held_out, half, run))

    def _find_first_nonfinite(self, run: BaseRun) -> None:
        """Find where the first non-finite value arises, by a replay of the training up to that step."""
        steps, context = suspect_steps(run.monitor.history), self.trainer.context
        if steps is None or steps[1] > _REPLAY_SHARE * (context.planned_steps or np.inf):
            return
        replay = NonfiniteReplay(*steps, limit=_REPLAY_SHARE * (self.budget.unit or 0), afford=run.afford)
        try:
            self.trainer.search(TrainingSpec(context.planned_epochs or 1, self.seed), replay)
        finally:
            replay.monitor.close()
        if replay.confirmed is not None:
            run.monitor.learn(replay.confirmed.facts(run.monitor.context.layers))

    def _test_rates(self, run: BaseRun) -> None:
        """Run a learning-rate range test: a short training from the start, whose rate grows from step to step."""
        context = self.trainer.context
        rate, planned = context.optimizer.learning_rate, context.planned_steps or 0
        steps = min(_STEPS, int(_RATE_SHARE * planned))
        if steps < _MIN_STEPS or not 0 < rate < math.inf or not self.trainer.supports(SetLearningRate(rate)):
            return
        test = RangeTestRun(rates_around(rate, steps), self.trainer.set_rate, run.afford)
        try:
            self.trainer.train(TrainingSpec(context.planned_epochs or 1, self.seed, rehearsal=True), test)
        finally:
            test.monitor.close()
        suggested = suggested_rate(*test.losses)
        run.monitor.learn({"suggested_rate": suggested} if math.isfinite(suggested) else {})

    def _sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return random rows in random order; of a stream the first ones, in its order."""
        if not isinstance(data, ArrayData):
            return self.trainer.sample(data, rows)
        return data.take(np.random.default_rng(self.seed).permutation(data.rows)[:rows])

    def _model_facts(self, trained: Trained, train: ArrayData, run: BaseRun) -> dict[str, float]:
        """Test whether the inputs matter: score the rows with their own inputs, and with those of other rows."""
        if not run.spend(2 * train.rows, training=False):
            return {}
        order = np.random.default_rng(self.seed).permutation(train.rows)
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        permuted = ArrayData(map_arrays(lambda a: a[other], train.inputs), train.targets, train.weights)
        score, permuted_score = (self.scorer.score_rows(trained.evaluate(data)) for data in (train, permuted))
        if score is None or permuted_score is None or score.rows is None or permuted_score.rows is None:
            return {}
        weights = np.ones(train.rows) if score.weights is None else score.weights
        gains = row_gains(score.rows, permuted_score.rows, weights)
        return {
            "train_score": score.value,
            "permuted_score": permuted_score.value,
            "input_gain": float(gains.mean()),
            "input_gain_error": float(gains.std() / math.sqrt(max(1, len(gains)))),
        }

    def _baseline_facts(
        self, trained: Trained, train: ArrayData, held_out: ArrayData, limit: float, run: BaseRun
    ) -> dict[str, float]:
        """Score baseline models and the trained model on the same held-out rows."""
        columns = features(train.inputs, tokens=run.context.input_kind == "index")
        if columns is None:
            return {}
        sizes = [rows for rows in (*_SIZES, train.rows) if rows <= train.rows]
        costs = {rows: operations(rows, held_out.rows, columns.shape[1]) for rows in sizes}
        size = max((rows for rows, cost in costs.items() if cost <= limit), default=0)
        if not size:
            return {}
        problem = make_problem(train.take(np.arange(size)), held_out, self.scorer.targets, run.context)
        if problem is None or not run.afford(costs[size]):
            return {}
        facts = {
            "trivial_score": problem.trivial,
            "held_out_rows": float(len(problem.held_inputs)),
            "simple_features": float(problem.inputs.shape[1]),
            **problem.scores(),
        }
        if run.spend(held_out.rows, training=False):
            score = self.scorer.score_rows(trained.evaluate(held_out))
            facts |= {} if score is None else {"held_out_score": score.value}
        return facts
