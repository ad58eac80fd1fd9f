"""Networks compared with baseline models on the same validation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation, Trained
from autotrainer.diagnostics.balanced_comparison import BalancedComparison
from autotrainer.diagnostics.baseline_models import CERTAIN, TabularProblem, operations, simple_operations
from autotrainer.diagnostics.baseline_problem import features, make_problem, steps_per_row, target_columns
from autotrainer.diagnostics.category_columns import category_columns, with_categories
from autotrainer.records.data import ArrayData, finite_rows
from autotrainer.records.signals import Floats
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.scoring.metric_selection import r2_metric
from autotrainer.scoring.metrics import Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.scoring.significance import row_gains
from autotrainer.training.base_run import BaseRun

__all__ = ["WORK", "BaselineComparison", "fitting_rows", "suits"]

_SIZES = (20, 30, 40, 60, 90, 130, 180, 250, 350, 500, 700, 1000)
"""Rows that baseline models are fitted on: as many as the work allows."""
_MIN_HELD_OUT = 10
"""Fewest rows that they are scored on: with fewer, no difference is clearly more than chance."""
_STEPS = 2000
"""Maximum time steps of all rows, where each step has a label."""
_FEW_HELD_OUT = 60
"""Held-out rows below which hardly any difference is more than chance, so that training rows are asked, too."""
_CROSSED_ROWS, _FOLDS = 250, 5
"""Maximum number of those training rows, and the parts of which each is predicted from the others."""
_CATEGORY_GAIN = 0.05
"""Accuracy or R² that a linear model must gain over all others by taking whole numbers as categories."""
WORK = 300_000_000
"""Multiply-adds that baseline models may take however small the training is: a fraction of a second."""


@dataclass(frozen=True)
class BaselineComparison:
    """The best baseline model on some validation rows. Can be sent to another process.

    Attributes:
        held_out: The validation rows.
        places: Their places in the validation data; None if these are a stream.
        facts: Scores of all baseline models and of the constant prediction, by the names in `FACTS`.
        best: Score of the best baseline model on each row.
        weights: Weight of each row: its time steps, or 1; 0 for rows that do not count.
        columns: Columns of numeric targets or labels that were predicted, or None for classes.
        work: Multiply-adds that fitting and scoring took.
        crossed: The same on training rows, which the baseline models predict by cross-validation, where there are few
            validation rows; else None. A network that does worse on rows that it was trained on than these models on
            rows they have not seen can't be said to do as well.
        balanced: The comparison by balanced accuracy, where trainings are scored by that; else None.
    """

    held_out: ArrayData
    places: NDArray[np.int64] | None
    facts: Mapping[str, float]
    best: Floats
    weights: Floats
    columns: NDArray[np.int64] | None
    work: int
    crossed: BaselineComparison | None = None
    balanced: BalancedComparison | None = None

    @classmethod
    def fit(
        cls,
        train: ArrayData,
        held_out: ArrayData,
        places: NDArray[np.int64] | None,
        targets: TargetSummary,
        context: TaskContext,
        limit: float,
    ) -> Self | None:
        """Fit baseline models on training rows, and score them on held-out rows.

        Args:
            train: Training rows, in random order.
            held_out: Validation rows.
            places: Their places in the validation data, or None.
            targets: Summary of all training targets.
            context: The training.
            limit: Multiply-adds that it may take, if they are more than a fraction of a second takes.

        Returns:
            The comparison; None if there are too few rows, or the data do not suit baseline models.
        """
        if not suits(train, targets, context):
            return None
        steps, columns = _steps(train, targets, context), target_columns(train.targets, targets, context)
        kept = [finite_rows(part)[: max(1, _STEPS // steps)] for part in (train, held_out)]
        train, held_out = (part.take(rows) for part, rows in zip((train, held_out), kept, strict=True))
        places = None if places is None else places[kept[1]]
        size = fitting_rows(train, held_out.rows, context, max(limit, WORK), steps, columns)
        if not size or held_out.rows < _MIN_HELD_OUT:
            return None
        problem = make_problem(train.take(np.arange(size)), held_out, targets, context)
        if problem is None:
            return None
        scores = {name: rows for name, rows in problem.row_scores().items() if np.isfinite(rows).all()}
        if not scores:
            return None
        work = operations(size * steps, len(problem.held_inputs), problem.inputs.shape[1], problem.targets.shape[1])
        coded = None if steps > 1 else _with_categories(train.take(np.arange(size)), held_out, targets, context)
        more: dict[str, float] = {}
        if coded is not None:
            linear = coded[0].score_rows(coded[0].ridge())
            work += simple_operations(size, held_out.rows, coded[0].inputs.shape[1], coded[0].targets.shape[1])
            if _certainly_better(linear, max(scores.values(), key=lambda rows: float(rows.mean()))):
                scores["linear_score"], more = linear, coded[1]
        name = max(scores, key=lambda name: float(scores[name].mean()))
        best, weights = _by_row(problem, scores[name], held_out.rows)
        facts = {
            "trivial_score": problem.trivial,
            "held_out_rows": float(len(problem.held_inputs)),
            "simple_features": float(problem.inputs.shape[1]),
            "simple_rows": float(size),
            **{name: float(rows.mean()) for name, rows in scores.items()},
            **more,
        }
        comparison = cls(held_out, places, facts, best, weights, problem.columns, work)
        count = min(train.rows, _CROSSED_ROWS)
        crossing = _FOLDS * operations(count, count // _FOLDS, problem.inputs.shape[1], problem.targets.shape[1])
        if steps > 1 or held_out.rows >= _FEW_HELD_OUT or work + crossing > max(limit, WORK):
            return comparison
        crossed = _cross_validated(train.take(np.arange(count)), comparison, targets, context)
        return replace(comparison, crossed=crossed, work=work + crossing)

    def compare(self, trained: Trained, run: BaseRun, scorer: Scorer) -> dict[str, float]:
        """Return how much the best baseline model is ahead of a network on the same rows.

        Args:
            trained: The network.
            run: The core's side of its training; holds its last evaluation, or accounts for another one.
            scorer: Scores evaluations.

        Returns:
            ``held_out_score``, ``simple_gap`` and ``simple_gap_error`` of `FACTS`; nothing if the network has no
            accuracy or R², or the budget does not allow its evaluation. No gap if the loss weights classes, for then
            the network minimizes something else than the baseline models, nor if `balanced` is there. If too few
            validation rows show no certain lead and training rows do, the facts of `crossed`, and ``simple_crossed``.
            Also what `balanced` returns.
        """
        facts = self._compare(trained, run, scorer)
        if self.balanced is not None:
            facts |= self.balanced.compare(trained, run, scorer)
        if self.crossed is None or "simple_gap" not in facts or _leads(facts):
            return facts
        crossed = self.crossed._compare(trained, run, scorer)
        return {**facts, **self.crossed.facts, **crossed, "simple_crossed": 1.0} if _leads(crossed) else facts

    def _compare(self, trained: Trained, run: BaseRun, scorer: Scorer) -> dict[str, float]:
        evaluation = self._evaluation(trained, run)
        score = None if evaluation is None else self._score(evaluation, scorer, run.context)
        if score is None or score.rows is None or len(score.rows) != len(self.best):
            return {}
        weights = self.weights * (1.0 if score.weights is None else score.weights > 0)
        if not weights.any():
            return {}
        facts = {"held_out_score": float((score.rows * weights).sum() / weights.sum())}
        if scorer.weighted or run.context.loss.weighted or self.balanced is not None:
            return facts
        if float((self.best * weights).sum() / weights.sum()) <= facts["held_out_score"]:
            return facts  # limited to [-1, 1], single rows may say otherwise
        gains = row_gains(np.clip(self.best, -1, 1), np.clip(score.rows, -1, 1), weights)
        error = float(gains.std()) / math.sqrt(len(gains))
        return facts | {"simple_gap": float(gains.mean()), "simple_gap_error": error}

    def _evaluation(self, trained: Trained, run: BaseRun) -> Evaluation | None:
        last = run.evaluation  # of the validation rows
        if last is not None and self.places is not None and len(last.outputs) == len(last.targets) > self.places.max():
            counted = None if last.counted is None else last.counted[self.places]
            return Evaluation(last.outputs[self.places], last.targets[self.places], last.loss, None, counted)
        return trained.evaluate(self.held_out) if run.spend(self.held_out.rows, training=False) else None

    def _score(self, evaluation: Evaluation, scorer: Scorer, context: TaskContext) -> Score | None:
        if self.columns is None:
            return scorer.score_rows(evaluation)
        outputs, targets = (np.asarray(v).reshape(len(v), -1) for v in (evaluation.outputs, evaluation.targets))
        if outputs.shape != targets.shape or scorer.score_rows(evaluation) is None:
            return None
        part = Evaluation(outputs[:, self.columns], targets[:, self.columns], evaluation.loss)
        if context.kind(scorer.targets) != "regression":
            return scorer.score_rows(part)
        metric = r2_metric(part, context.loss)
        return None if metric is None else metric.score(part)


def _certainly_better(new: Floats, old: Floats) -> bool:
    if len(new) != len(old):
        return False
    gains = np.clip(new, -1, 1) - np.clip(old, -1, 1)
    noise = CERTAIN * float(gains.std()) / math.sqrt(len(gains))
    return float(gains.mean()) > max(_CATEGORY_GAIN, noise)


def _with_categories(
    train: ArrayData, held_out: ArrayData, targets: TargetSummary, context: TaskContext
) -> tuple[TabularProblem, dict[str, float]] | None:
    """Return the problem with whole numbers taken as categories, and facts of these; None if there are none."""
    columns = {} if context.input_kind == "index" else category_columns(train)
    if not columns:
        return None
    problem = make_problem(with_categories(train, columns), with_categories(held_out, columns), targets, context)
    most = max(columns, key=lambda column: len(columns[column]))
    facts = {"category_columns": float(len(columns)), "category_column": float(most)}
    return None if problem is None else (problem, facts | {"category_levels": float(len(columns[most]))})


def _leads(facts: Mapping[str, float]) -> bool:
    """Return whether a baseline model is certainly ahead of a network."""
    return facts.get("simple_gap", 0.0) - CERTAIN * facts.get("simple_gap_error", 0.0) > 0


def _cross_validated(
    train: ArrayData, held_out: BaselineComparison, targets: TargetSummary, context: TaskContext
) -> BaselineComparison | None:
    """Return the comparison on training rows, which are in random order; None if there are too few."""
    parts = np.array_split(np.arange(train.rows), _FOLDS)
    scores: dict[str, list[Floats]] = {}
    trivial = 0.0
    for part in parts:
        others = np.setdiff1d(np.arange(train.rows), part)
        problem = make_problem(train.take(others), train.take(part), targets, context) if len(part) else None
        if problem is None or len(others) < _SIZES[0]:
            return None
        trivial += problem.trivial * len(part) / train.rows
        for name, rows in problem.row_scores().items():
            scores.setdefault(name, []).append(rows)
    whole = {name: np.concatenate(rows) for name, rows in scores.items()}
    finite = {name: rows for name, rows in whole.items() if len(rows) == train.rows and np.isfinite(rows).all()}
    if not finite:
        return None
    best = max(finite.values(), key=lambda rows: float(rows.mean()))
    facts = {**held_out.facts, "trivial_score": trivial, "held_out_rows": float(train.rows)}
    facts |= {"simple_rows": float(train.rows - len(parts[0])), **{n: float(rows.mean()) for n, rows in finite.items()}}
    return replace(held_out, held_out=train, places=None, facts=facts, best=best, weights=np.ones(train.rows))


def suits(train: ArrayData, targets: TargetSummary, context: TaskContext) -> bool:
    """Return whether rows may have features that baseline models take, by the first two: large ones are not copied."""
    return _steps(train, targets, context) > 1 or _first_features(train, context) is not None


def _steps(train: ArrayData, targets: TargetSummary, context: TaskContext) -> int:
    """Return the time steps of a row that have a label each."""
    return steps_per_row(train.targets, targets) if context.kind(targets) in ("multiclass", "binary") else 1


def _first_features(train: ArrayData, context: TaskContext) -> Floats | None:
    return features(train.take(slice(0, 2)).inputs, tokens=context.input_kind == "index")


def fitting_rows(
    train: ArrayData, held_out: int, context: TaskContext, limit: float, steps: int = 1, columns: int = 1
) -> int:
    """Return how many training rows baseline models can be fitted on within some work; 0 if there are too few.

    Args:
        train: Training rows.
        held_out: Rows to score on.
        context: The training.
        limit: Multiply-adds that it may take.
        steps: Time steps of a row that have a label each.
        columns: Columns of the targets.
    """
    first = _first_features(train, context)
    if first is None and steps == 1:
        return 0
    width = 4096 if first is None else first.shape[1]
    smallest = max(1, _SIZES[0] // steps)
    sizes = [rows for rows in (*_SIZES, train.rows) if smallest <= rows <= min(train.rows, _SIZES[-1])]
    sizes += [smallest] if smallest <= train.rows else []
    fitting = (rows for rows in sizes if operations(rows * steps, held_out * steps, width, columns) <= limit)
    return max(fitting, default=0)


def _by_row(problem: TabularProblem, scores: Floats, rows: int) -> tuple[Floats, Floats]:
    """Return the mean score of each data row, and its weight."""
    places = np.arange(len(scores)) if problem.held_rows is None else problem.held_rows
    weights = np.bincount(places, minlength=rows).astype(np.float64)
    return np.bincount(places, weights=scores, minlength=rows) / np.maximum(weights, 1), weights
