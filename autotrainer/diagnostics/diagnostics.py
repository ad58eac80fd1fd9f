"""Questions to data and model that statistics of a training can't answer: what `fit` and `Loop` ask, and when.

The answers are facts (`FACTS`) that rules read like everything else: they stand in the context, and
so in the run log. A question is asked only if a rule in force needs its answer. Those to the data alone come first; all
others are asked only where the training as given came out poorly and nothing yet says why. They pass some rows forward
through the trained model and fit simple models on some rows: work that counts, at most a twentieth of one training.
Where the learning rate is in doubt, a range test of a few dozen steps asks for a better one: at most a tenth. Where
training ended in values that are not finite, it is replayed up to the first of them: at most a quarter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.adapter.backend import Trainer
from autotrainer.adapter.spec import Trained, TrainingSpec
from autotrainer.diagnostics.baseline_models import features, pose, work
from autotrainer.diagnostics.lr_range_test import RateRun, rates_around, suggested_rate
from autotrainer.diagnostics.nonfinite_search import NonfiniteReplay, broken, suspects
from autotrainer.diagnostics.train_val_overlap import shared_inputs
from autotrainer.edits import SetLearningRate
from autotrainer.records.data import ArrayData, Data, arrays_of, map_arrays
from autotrainer.records.findings import Finding, Severity
from autotrainer.scoring.scorer import Scorer
from autotrainer.scoring.significance import row_gains
from autotrainer.training.budget import Budget
from autotrainer.training.run import BaseRun

__all__ = ["OF_BOTH", "ROWS", "Diagnostics", "lasting", "rate_in_doubt", "suspicious"]

logger = logging.getLogger("autotrainer")

ROWS = 1000
"""Rows of training and of validation data that are asked about at most."""
_FEWEST = 60
"""Rows with which a question is worth asking: with less, nothing differs from chance beyond doubt."""
_SIZES = (60, 90, 130, 180, 250, 350, 500, 700)
"""Rows that simple models learn from: as many as the work allows."""
_SHARE = 0.05
"""Work of all questions at most, in trainings as given: half of it for the model, half for simple models."""
_STEPS, _FEWEST_STEPS, _RATE_SHARE = 60, 30, 0.1
"""Steps of a range test: at most, at least, and as a share of those of the training as given."""
_MEASURED = frozenset({"first_step", "typical_step"})
"""Evidence on the size of steps: it tells the rate as well as a range test would, and costs nothing."""

_SEARCH_SHARE = 0.25
"""Work of the search for the first value that is not finite at most: nearly always it comes early."""

_READ, _READ_BYTES = 5000, 1 << 27
"""Rows of a loader or stream, and bytes of their inputs, that are read at most to see which are shared: a second, where
rows are not read from a disk."""

_OF_DATA = ("constant_targets", "shared_inputs", "shared_input_share", "expected_shared_share")
_OF_SIMPLE = ("linear_score", "neighbour_score", "tree_score", "trivial_score", "held_out_rows", "simple_features")
OF_BOTH = frozenset(_OF_DATA[1:])
"""Facts of training and validation data together."""
_OF_MODEL = ("train_score", "permuted_score", "input_gain", "input_gain_error")

_NO_REASON = frozenset(
    {"not_learning", "slow_convergence", "overfitting", "too_few_epochs", "insufficient_capacity", "data_leakage"}
)
"""Problems that say how a training came out, or nothing about that, but not why it came out so."""


def suspicious(findings: Sequence[Finding], above_trivial: bool) -> bool:
    """Say whether a training came out poorly and nothing says why.

    Args:
        findings: Its findings.
        above_trivial: Whether its score is clearly above that of the trivial predictor.
    """
    errors = [f for f in findings if f.severity is Severity.ERROR and f.problem != "data_leakage"]
    roots = [f for f in errors if f.caused_by is None]
    return (bool(roots) or not above_trivial) and all(f.problem in _NO_REASON for f in roots)


def rate_in_doubt(findings: Sequence[Finding]) -> bool:
    """Say whether another learning rate answers an error that has no root, and no measured step tells how far to go."""
    roots = [f for f in findings if f.severity is Severity.ERROR and f.caused_by is None]
    measured = any(_MEASURED.intersection(f.evidence) for f in roots)
    return not measured and any("scale_learning_rate" in f.repairs for f in roots)


def lasting(facts: Mapping[str, float]) -> dict[str, float]:
    """Return the facts that hold for every training on the same data."""
    return {name: value for name, value in facts.items() if name in (*_OF_DATA, *_OF_SIMPLE)}


@dataclass(frozen=True)
class Diagnostics:
    """Asks; see the module.

    Attributes:
        trainer: Reads streams.
        judge: Scores rows.
        budget: Knows how much work one training as given is.
        train: Training data.
        validation: Validation data.
        needs: Names of facts that the rules in force read.
        seed: Seed of the choice of rows.
    """

    trainer: Trainer
    judge: Scorer
    budget: Budget
    train: Data
    validation: Data
    needs: frozenset[str]
    seed: int

    def of_data(self) -> dict[str, float]:
        """Return what arrays tell before the training; streams are read after it.

        What can't be answered, for want of memory or for a type without an order, is left open and reported.
        """
        try:
            return self._of_arrays()
        except Exception as error:  # noqa: BLE001 - the training does without
            logger.warning("a question to the data failed and is left open: %r", error)
            return {}

    def _of_arrays(self) -> dict[str, float]:
        facts: dict[str, float] = {}
        if not isinstance(self.train, ArrayData):
            return facts
        targets = self.train.targets
        if "constant_targets" in self.needs:
            facts["constant_targets"] = float(bool((targets == targets[:1]).all()))
        if isinstance(self.validation, ArrayData) and self.needs.intersection(OF_BOTH):
            facts |= shared_inputs(self.train, self.validation)
        return facts

    def _of_streams(self) -> dict[str, float]:
        """Return what the first rows of loaders and streams share; nothing of arrays, which `of_data` has asked.

        They are read once a training has ended: before, one that can be read but once would be used up.
        """
        if isinstance(self.train, ArrayData) and isinstance(self.validation, ArrayData):
            return {}
        try:
            train, held_out = self._first(self.train), self._first(self.validation)
            return {} if train is None or held_out is None else shared_inputs(train, held_out)
        except Exception as error:  # noqa: BLE001 - the training is done without
            logger.warning("a question to the data failed and is left open: %r", error)
            return {}

    def _first(self, data: Data) -> ArrayData | None:
        """Return arrays whole, and as many rows of a stream as may be read."""
        if isinstance(data, ArrayData):
            return data
        one = self.trainer.sample(data, 1)
        if one is None or not one.rows:
            return None
        size = sum(array.nbytes for array in arrays_of(one.inputs)) / one.rows
        return self.trainer.sample(data, max(1, min(_READ, int(_READ_BYTES / max(size, 1.0)))))

    def of_training(self, trained: Trained, run: BaseRun) -> None:
        """Ask about a training that has ended, and tell its monitor.

        Args:
            trained: What came out.
            run: What is known of it; accounts for the work. Nothing is asked that the budget does not allow.
        """
        if "first_bad_step" in self.needs and broken(run.monitor.findings):
            self._of_first_bad(run)
        if self.needs.intersection(OF_BOTH) and "shared_inputs" not in run.monitor.context.asked:
            run.monitor.learn(self._of_streams())
        if suspicious(run.monitor.findings, self.judge.above_trivial(run.judged)):
            self._of_outcome(trained, run)
        if "suggested_rate" in self.needs and rate_in_doubt(run.monitor.findings):
            self._of_rate(run)

    def _of_outcome(self, trained: Trained, run: BaseRun) -> None:
        """Ask why a training came out poorly."""
        half = _SHARE / 2 * (self.budget.unit or 0)
        rows = min(ROWS, int(half / (3 * run.operations)))
        if rows < _FEWEST or not self.needs.intersection(_OF_MODEL + _OF_SIMPLE):
            return
        train, held_out = (self._some(data, rows) for data in (self.train, self.validation))
        if train is None or held_out is None or min(train.rows, held_out.rows) < _FEWEST:
            return
        if self.needs.intersection(_OF_MODEL):
            run.monitor.learn(self._of_model(trained, train, run))
        if self.needs.intersection(_OF_SIMPLE):
            run.monitor.learn(self._of_simple_models(trained, train, held_out, half, run))

    def _of_first_bad(self, run: BaseRun) -> None:
        """Ask where the first value that is not finite arises: by a replay of the training up to there."""
        steps, context = suspects(run.monitor.history), self.trainer.context
        if steps is None or steps[1] > _SEARCH_SHARE * (context.planned_steps or np.inf):
            return
        search = NonfiniteReplay(*steps, limit=_SEARCH_SHARE * (self.budget.unit or 0), afford=run.afford)
        try:
            self.trainer.search(TrainingSpec(context.planned_epochs or 1, self.seed), search)
        finally:
            search.monitor.close()
        if search.told is not None:
            run.monitor.learn(search.told.facts(run.monitor.context.layers))

    def _of_rate(self, run: BaseRun) -> None:
        """Ask which learning rate suits: with a short training from the start, whose rate grows from step to step."""
        context = self.trainer.context
        rate, planned = context.optimizer.learning_rate, context.planned_steps or 0
        steps = min(_STEPS, int(_RATE_SHARE * planned))
        if steps < _FEWEST_STEPS or not 0 < rate < math.inf or not self.trainer.supports(SetLearningRate(rate)):
            return
        test = RateRun(rates_around(rate, steps), self.trainer.set_rate, run.afford)
        try:
            self.trainer.train(TrainingSpec(context.planned_epochs or 1, self.seed, rehearsal=True), test)
        finally:
            test.monitor.close()
        suggested = suggested_rate(*test.losses)
        run.monitor.learn({"suggested_rate": suggested} if math.isfinite(suggested) else {})

    def _some(self, data: Data, rows: int) -> ArrayData | None:
        """Return rows drawn with the seed, in random order; of a stream the first ones, as they come."""
        if not isinstance(data, ArrayData):
            return self.trainer.sample(data, rows)
        return data.take(np.random.default_rng(self.seed).permutation(data.rows)[:rows])

    def _of_model(self, trained: Trained, train: ArrayData, run: BaseRun) -> dict[str, float]:
        """Ask whether the inputs matter: the same rows are judged with their own inputs and with those of another."""
        if not run.spend(2 * train.rows, training=False):
            return {}
        order = np.random.default_rng(self.seed).permutation(train.rows)
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        exchanged = ArrayData(map_arrays(lambda a: a[other], train.inputs), train.targets, train.weights)
        own, foreign = (self.judge.score_rows(trained.evaluate(data)) for data in (train, exchanged))
        if own is None or foreign is None or own.rows is None or foreign.rows is None:
            return {}
        weights = np.ones(train.rows) if own.weights is None else own.weights
        gains = row_gains(own.rows, foreign.rows, weights)
        return {
            "train_score": own.value,
            "permuted_score": foreign.value,
            "input_gain": float(gains.mean()),
            "input_gain_error": float(gains.std() / math.sqrt(max(1, len(gains)))),
        }

    def _of_simple_models(
        self, trained: Trained, train: ArrayData, held_out: ArrayData, allowed: float, run: BaseRun
    ) -> dict[str, float]:
        """Ask what simple models make of the same rows."""
        width = features(train.inputs, tokens=run.context.input_kind == "index")
        if width is None:
            return {}
        costs = {
            rows: work(rows, held_out.rows, width.shape[1]) for rows in (*_SIZES, train.rows) if rows <= train.rows
        }
        size = max((rows for rows, cost in costs.items() if cost <= allowed), default=0)
        problem = pose(train.take(np.arange(size)), held_out, self.judge.targets, run.context) if size else None
        if problem is None or not run.afford(costs[size]):
            return {}
        facts = {
            "trivial_score": problem.trivial,
            "held_out_rows": float(len(problem.held_inputs)),
            "simple_features": float(problem.inputs.shape[1]),
            **problem.scores(),
        }
        if run.spend(held_out.rows, training=False):
            own = self.judge.score_rows(trained.evaluate(held_out))
            facts |= {} if own is None else {"held_out_score": own.value}
        return facts
