"""Diagnostics of `fit` and `Loop`: experiments that answer what the statistics of a training can't.

Their results are facts (`FACTS`) that rules read from the context, and so they are also in the run log. A diagnostic
runs only if a rule in force needs its result. Those of the data alone run first. Unless the baseline training came out
well, baseline models are fitted on some rows, to tell whether it is any better; that takes a fraction of a second, and
is charged as at most a fortieth of one training. A model of sequences, whose good score may be a leak, and one whose
training came out poorly, are probed with a few hundred rows, and at most a twentieth of one training. If it came out
poorly and its cause is unknown, some rows are passed through the trained model: at most a fortieth as well. If the
learning rate is in doubt, a range test of a few dozen steps looks for a better one: at most a tenth. If training ended
in non-finite values, it is replayed up to the first of them: at most a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Trained, TrainingSpec
from autotrainer.adapter.trainer import Trainer
from autotrainer.diagnostics.balanced_comparison import BalancedComparison
from autotrainer.diagnostics.baseline_comparison import WORK, BaselineComparison, suits
from autotrainer.diagnostics.first_rows import first_rows
from autotrainer.diagnostics.label_alignment import alignment_rows, label_alignment
from autotrainer.diagnostics.lr_range_test import range_test, rate_in_doubt
from autotrainer.diagnostics.nonfinite_search import NonfiniteReplay, ended_nonfinite, suspect_steps
from autotrainer.diagnostics.probes import probe_training
from autotrainer.diagnostics.train_val_overlap import shared_inputs
from autotrainer.monitoring.train_val_mismatch import validation_mismatch
from autotrainer.output import logger
from autotrainer.records.data import ArrayData, Data, map_arrays
from autotrainer.records.facts import PROBE_FACTS
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import TaskContext
from autotrainer.scoring.scorer import Scorer
from autotrainer.scoring.significance import row_gains
from autotrainer.training.base_run import BaseRun
from autotrainer.training.budget import Budget
from autotrainer.training.missing_values import missing_code_facts

__all__ = [
    "GOOD_SCORE",
    "HELD_OUT_FACTS",
    "MISMATCH_FACTS",
    "OVERLAP_FACTS",
    "ROWS",
    "Diagnostics",
    "cause_unknown",
    "data_facts",
]

ROWS = 1000
"""Maximum number of rows of the training and of the validation data that diagnostics use."""
_MIN_ROWS = 60
"""Minimum number of rows: with fewer, no difference is clearly more than chance."""
GOOD_SCORE = 0.9
"""Accuracy or R² from which no model can be better by 0.1: baseline models are fitted only below it."""
_SHARE = 0.05
"""Maximum work of all of them, in baseline trainings: one half for the model, one half for baseline models."""
_REPLAY_SHARE = 0.25
"""Maximum work of the search for the first non-finite value, in baseline trainings: nearly always it arises early."""

_DATA_FACTS = ("constant_targets", "shared_inputs", "shared_input_share", "expected_shared_share")
_BASELINE_FACTS = (
    "linear_score", "kernel_score", "neighbour_score", "tree_score", "trivial_score", "held_out_rows",
    "simple_features", "simple_rows", "category_columns", "category_column", "category_levels",
)  # fmt: skip
_CHANCE = 0.2
"""Skill of baseline models below which the targets may belong to other rows."""
_COMPARED_FACTS = (
    "held_out_score", "simple_gap", "simple_gap_error", "simple_crossed",
    "balanced_score", "simple_balanced_score", "balanced_gap", "balanced_gap_low", "balanced_crossed",
)  # fmt: skip
OVERLAP_FACTS = frozenset(_DATA_FACTS[1:])
"""Facts that need both training and validation data."""
MISMATCH_FACTS = frozenset(
    {
        "validation_classes", "unseen_classes", "unseen_class_share", "unseen_class",
        "absent_class_share", "class_shift", "class_shift_z",
        "validation_scale", "validation_offset", "shifted_feature", "feature_shift", "feature_shift_noise",
        "target_shift",
    }
)  # fmt: skip
"""Facts of `validation_mismatch`."""
HELD_OUT_FACTS = OVERLAP_FACTS | MISMATCH_FACTS | frozenset(_BASELINE_FACTS + _COMPARED_FACTS)
"""Facts that need validation data other than the training data."""
_MODEL_FACTS = ("train_score", "permuted_score", "input_gain", "input_gain_error")

_NO_CAUSE = frozenset(
    {
        "not_learning",
        "slow_convergence",
        "overfitting",
        "too_few_epochs",
        "insufficient_capacity",
        "worse_than_simple_model",
        "data_leakage",
    }
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


def data_facts(facts: Mapping[str, float]) -> dict[str, float]:
    """Return the facts that hold for every training of the same model on the same data."""
    return {
        name: value
        for name, value in facts.items()
        if name in {*_DATA_FACTS, *_BASELINE_FACTS, *MISMATCH_FACTS, *PROBE_FACTS}
    }


@dataclass
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
        comparison: Baseline models on the validation rows; None if they were not fitted.
    """

    trainer: Trainer
    scorer: Scorer
    budget: Budget
    train: Data
    validation: Data
    needs: frozenset[str]
    seed: int
    comparison: BaselineComparison | None = None

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
        if "missing_code" in self.needs:
            facts |= missing_code_facts(self.train)
        if isinstance(self.validation, ArrayData) and self.needs.intersection(OVERLAP_FACTS):
            facts |= shared_inputs(self.train, self.validation)
        if isinstance(self.validation, ArrayData) and self.needs.intersection(MISMATCH_FACTS):
            facts |= validation_mismatch(self.train, self.validation)
        return facts

    def _stream_facts(self) -> dict[str, float]:
        """Return the overlap of the first rows of loaders and streams; nothing for arrays, which `of_data` compares.

        They are read after a training: one that can be read only once would be used up before it.
        """
        if isinstance(self.train, ArrayData) and isinstance(self.validation, ArrayData):
            return {}
        try:
            train, held_out = first_rows(self.trainer, self.train), first_rows(self.trainer, self.validation)
            return {} if train is None or held_out is None else shared_inputs(train, held_out)
        except Exception as error:  # noqa: BLE001 - the training is done without
            logger.warning("a diagnostic of the data failed, and its facts are left out: %r", error)
            return {}

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
        if self.needs.intersection(PROBE_FACTS):
            probe_training(lambda: self.trainer.probed(trained), run, self.budget)
        self._compare(trained, run)
        if self.needs.intersection(PROBE_FACTS) and "not_probed" not in run.monitor.context.asked:
            probe_training(lambda: self.trainer.probed(trained), run, self.budget)  # if only now there is an error
        if cause_unknown(run.monitor.findings, self._above_trivial(run)):
            self._test_inputs(trained, run)
        if "suggested_rate" in self.needs and rate_in_doubt(run.monitor.findings):
            self._test_rates(run)

    def _above_trivial(self, run: BaseRun) -> bool:
        return bool(run.monitor.context.asked.get("above_constant", self.scorer.above_trivial(run.score)))

    def _compare(self, trained: Trained, run: BaseRun) -> None:
        """Compare the model with baseline models, unless it came out well."""
        if not self.needs.intersection(_BASELINE_FACTS + _COMPARED_FACTS):
            return
        run.monitor.learn(self.compare_attempt(run.monitor.context, trained, run, self.scorer))
        if "misaligned_score" in self.needs and isinstance(self.train, ArrayData) and self._at_chance:
            self._align(self.train, run)

    def compare_attempt(self, baseline: TaskContext, trained: Trained, run: BaseRun, _: Scorer) -> dict[str, float]:
        """Compare a model with baseline models unless it came out well, and fit these if need be.

        Args:
            baseline: Context of the original training.
            trained: The model.
            run: The core's side of its training; accounts for the work.
        """
        score = None if run.evaluation is None else self.scorer.score_rows(run.evaluation)
        score = run.score if self._balanced else score  # most accuracies are high where one class is very common
        good = score is not None and score.value >= GOOD_SCORE
        if good and not cause_unknown(run.monitor.findings, self._above_trivial(run)):
            return {}
        run.afford(self.fit(baseline))  # it runs in any case, as a verdict needs it
        if self.comparison is None:
            return {}
        return {**self.comparison.facts, **self.comparison.compare(trained, run, self.scorer)}

    def fit(self, context: TaskContext) -> int:
        """Fit the baseline models unless they are fitted; return the operations to charge for that."""
        if self.comparison is not None or not self.needs.intersection(_BASELINE_FACTS + _COMPARED_FACTS):
            return 0
        self._fit_baselines(context)
        return 0 if self.comparison is None else min(self.comparison.work, int(self._half))

    def _align(self, train: ArrayData, run: BaseRun) -> None:
        """Compare the targets with those of other rows; as baseline models, it runs in any case."""
        task, limit = (train, self.scorer.targets, run.monitor.context), max(self._half, WORK)
        charged = 0 if self.comparison is None else self.comparison.work
        run.afford(min(alignment_rows(*task, limit)[1], max(0, int(self._half) - charged)))
        run.monitor.learn(label_alignment(*task, self.seed, limit))

    @property
    def _at_chance(self) -> bool:
        """Whether no baseline model is much better than the trivial predictor."""
        if self.comparison is None:
            return False
        facts = self.comparison.facts
        return float(self.comparison.best.mean()) - facts["trivial_score"] < _CHANCE * (1 - facts["trivial_score"])

    def restore(self, context: TaskContext, baseline: TaskContext | None = None) -> None:
        """Fit the baseline models again that a recorded training was compared with; they are not charged again.

        Args:
            context: The context of that training.
            baseline: That of the original training; None if it is the same.
        """
        if self.comparison is None and "simple_rows" in context.asked:
            self._fit_baselines(baseline or context)

    def _fit_baselines(self, context: TaskContext) -> None:
        if isinstance(self.train, ArrayData) and not suits(self.train, self.scorer.targets, context):
            return
        train, held_out = self._sample(self.train, ROWS), self._sample(self.validation, ROWS)
        if train is None or held_out is None:
            return
        places = self._places(self.validation, ROWS) if isinstance(self.validation, ArrayData) else None
        self.comparison = BaselineComparison.fit(train, held_out, places, self.scorer.targets, context, self._half)
        if self.comparison is not None and self._balanced:
            self._fit_balanced(self.comparison, context)

    @property
    def _balanced(self) -> bool:
        """Whether trainings are scored by balanced accuracy."""
        metric = self.scorer.metric
        return metric is not None and metric.name == "balanced_accuracy"

    def _fit_balanced(self, comparison: BaselineComparison, context: TaskContext) -> None:
        if not (isinstance(self.train, ArrayData) and isinstance(self.validation, ArrayData)):
            return
        task = (self.train, self.validation, self.scorer.targets, context)
        balanced = BalancedComparison.fit(*task, max(self._half, WORK), self.seed)
        if balanced is not None:
            self.comparison = replace(comparison, balanced=balanced, work=comparison.work + balanced.work)

    @property
    def _half(self) -> float:
        """Maximum work of either part of the diagnostics of a poor training."""
        return _SHARE / 2 * (self.budget.unit or 0)

    def _test_inputs(self, trained: Trained, run: BaseRun) -> None:
        """Pass some training rows through the model, with their own inputs and with those of other rows."""
        rows = min(ROWS, int(self._half / (2 * run.operations)))
        if rows < _MIN_ROWS or not self.needs.intersection(_MODEL_FACTS):
            return
        train = self._sample(self.train, rows)
        if train is not None and train.rows >= _MIN_ROWS:
            run.monitor.learn(self._model_facts(trained, train, run))

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
        rate = range_test(self.trainer, TrainingSpec(context.planned_epochs or 1, self.seed), context, run.afford)
        run.monitor.learn({"suggested_rate": rate} if math.isfinite(rate) else {})

    def _sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return random rows in random order; of a stream the first ones, in its order."""
        if not isinstance(data, ArrayData):
            return self.trainer.sample(data, rows)
        return data.take(self._places(data, rows))

    def _places(self, data: ArrayData, rows: int) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(data.rows)[:rows]

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
