"""Metrics: they score trainings and decide whether one is better than another by more than noise.

A metric with a value per row (accuracy, R², squared and absolute error) is compared row by row on the same validation
rows, with a paired one-sided test at the 95% level. Any other function of all rows is compared by a paired, seeded
bootstrap over rows (Efron and Tibshirani 1993, chapter 13); a loss by paired blocks of rows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation
from autotrainer.errors import InputError
from autotrainer.records.signals import Floats
from autotrainer.scoring.significance import SIGMAS, row_gains, significant, weighted_gains_significant

__all__ = ["TRIVIAL_R2", "BalancedMetric", "LossMetric", "Metric", "Mode", "RowMetric", "Score", "WholeMetric"]

TRIVIAL_R2 = 0.05
"""R² up to which a model is no better than the mean of the targets."""

_LEAST_GAIN = 0.05
"""Share of the error that a gain must remove where rows have no sampling noise: more than rounding and the order of the
rows do."""

Mode = Literal["max", "min"]

_RESAMPLES = 200
_PERFECT = {"accuracy": 1.0, "balanced_accuracy": 1.0, "r2": 1.0, "mse": 0.0, "mae": 0.0}


@dataclass(frozen=True, slots=True)
class Score:
    """The score of an evaluation.

    Attributes:
        value: The score in the metric's own sign.
        nonfinite: Share of rows with a prediction that is not finite, in [0, 1].
        rows: Score of each row, higher is better, shape (rows,); None if the metric has no values per row.
        weights: Weight of each row (its unmasked time steps), shape (rows,); None for equal weights.
        evaluation: The scored evaluation, if comparisons need it.
        losses: Original loss of each of a few blocks of rows, shape (blocks,); None with many rows, or if unknown.
    """

    value: float
    nonfinite: float
    rows: Floats | None
    weights: Floats | None
    evaluation: Evaluation | None = field(repr=False, default=None)
    losses: Floats | None = field(repr=False, default=None)


class Metric(ABC):
    """A metric: computes scores and compares them."""

    name: str
    mode: Mode = "max"
    exact: bool = False
    """Whether the rows are all that a training is judged by: they then have no sampling noise."""
    perfect: float = math.nan
    """Score of perfect predictions, which each row then has too; NaN if it is unknown."""

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.mode == "max" else -1

    @abstractmethod
    def score(self, evaluation: Evaluation) -> Score:
        """Score an evaluation.

        Raises:
            InputError: If the metric can't be computed from finite predictions.
        """

    def gain(self, new: Score, old: Score) -> float:
        """Return how much better ``new`` is than ``old``, positive if better; NaN if neither is finite."""
        if new.value == old.value:
            return 0.0
        return self.sign * (new.value - old.value)

    def better(self, new: Score, old: Score, sigmas: float = SIGMAS) -> bool:
        """Return whether a score is better by more than noise; more non-finite predictions are never better.

        What is better than an infinite value is so by more than noise. On `exact` rows, a gain must remove a twentieth
        of the error. A higher level than the usual one, which is asked for because seeds differ, must be reached there,
        too.

        Args:
            new: The new score.
            old: The score to compare with.
            sigmas: Number of standard deviations of the noise that the gain must exceed.
        """
        if new.nonfinite > old.nonfinite or math.isnan(new.value):
            return False
        if not math.isfinite(old.value):
            return math.isnan(old.value) or self.gain(new, old) > 0
        if self.exact and sigmas <= SIGMAS:
            perfect = 0.0 if math.isnan(self.perfect) else self.perfect
            return self.gain(new, old) > _LEAST_GAIN * abs(perfect - old.value)
        return self.exceeds_noise(new, old, sigmas)

    def exceeds_noise(self, new: Score, old: Score, sigmas: float = SIGMAS) -> bool:
        """Return whether a finite score is better by more than the noise of sampled rows; arguments as for `better`."""
        return self.gain(new, old) > 0 and self._exceeds_noise(new, old, sigmas)

    @abstractmethod
    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        """Return whether a positive gain is more than noise."""


class RowMetric(Metric):
    """A metric that is the (weighted) mean of a value per row.

    Args:
        name: Its name.
        mode: Whether higher or lower is better.
        rows: Function of an evaluation that returns the score of each row (higher is better), and weights or None.
        to_value: Converts the mean score to the metric's own sign.
    """

    def __init__(
        self,
        name: str,
        mode: Mode,
        rows: Callable[[Evaluation], tuple[Floats, Floats | None]],
        to_value: Callable[[float], float] = float,
    ) -> None:
        self.name, self.mode, self.perfect = name, mode, _PERFECT.get(name, math.nan)
        self._rows, self._to_value = rows, to_value

    def score_rows(self, evaluation: Evaluation) -> Floats:
        """Return the score of each row."""
        return self._rows(evaluation)[0]

    def score(self, evaluation: Evaluation) -> Score:
        """Score an evaluation."""
        rows, weights = self._rows(evaluation)
        if weights is None and np.isnan(rows).any():  # fully masked rows do not count
            weights = (~np.isnan(rows)).astype(np.float64)
        if weights is not None:
            rows = np.where(weights > 0, rows, 0.0)
            total = float(weights.sum())
            mean = float((rows * weights).sum() / total) if total else float("nan")
        else:
            mean = float(rows.mean())
        return Score(self._to_value(mean), _nonfinite(evaluation), rows, weights)

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if new.rows is None or old.rows is None or new.rows.shape != old.rows.shape:
            return False
        weights = np.ones(len(new.rows)) if new.weights is None else new.weights
        plain = row_gains(new.rows, old.rows, weights)
        # A few huge errors of a diverged model would hide the gains of all other rows: also test clipped scores.
        clipped = row_gains(np.clip(new.rows, -1, 1), np.clip(old.rows, -1, 1), weights)
        return significant(plain, sigmas) or significant(clipped, sigmas)


class BalancedMetric(RowMetric):
    """A metric per row in which rare classes weigh as much as common ones: a few rows then decide."""

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if new.rows is None or old.rows is None or new.weights is None or new.rows.shape != old.rows.shape:
            return False
        return weighted_gains_significant(row_gains(new.rows, old.rows, new.weights), sigmas)


class WholeMetric(Metric):
    """A metric that is a function of all rows together.

    Args:
        name: Its name.
        mode: Whether higher or lower is better.
        function: Function of targets and raw outputs that returns a number.
        seed: Seed of the bootstrap.
        perfect: Score of perfect predictions; NaN if it is unknown.
    """

    def __init__(
        self, name: str, mode: Mode, function: Callable[[Any, Any], Any], seed: int, perfect: float = math.nan
    ) -> None:
        self.name, self.mode, self.perfect = name, mode, perfect
        self._function, self._seed = function, seed

    def score(self, evaluation: Evaluation) -> Score:
        """Score an evaluation; predictions that are not finite get the worst possible score."""
        share = _nonfinite(evaluation)
        worst = -self.sign * math.inf
        value = worst if share else self._value(evaluation.targets, evaluation.outputs)
        if math.isnan(value) and not _constant(evaluation.outputs):
            raise InputError(
                f"metric {self.name} returned NaN, although predictions are finite and differ: return a number for any "
                "predictions, such as the worst score where the metric is undefined"
            )
        return Score(value, share, None, None, evaluation)

    def _value(self, targets: NDArray[Any], outputs: NDArray[Any]) -> float:
        try:
            value = self._function(targets, outputs)
        except (ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"metric {self.name} fails on targets of shape {targets.shape} and raw outputs of shape "
                f"{outputs.shape}: {error}"
            ) from error
        return _as_number(value, self.name)

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if not math.isfinite(old.value):
            return True
        a, b = new.evaluation, old.evaluation
        if a is None or b is None or len(a.outputs) != len(b.outputs):
            return False
        random = np.random.default_rng(self._seed)
        gains = []
        for _ in range(_RESAMPLES):
            rows = random.integers(0, len(a.outputs), len(a.outputs))
            try:
                gain = self._value(a.targets[rows], a.outputs[rows]) - self._value(b.targets[rows], b.outputs[rows])
            except InputError:  # such as a resample without one of the classes
                continue
            gains.append(self.sign * gain)
        if len(gains) <= _RESAMPLES // 2:
            return False
        level = round(1 - math.erfc(min(sigmas, SIGMAS) / math.sqrt(2)) / 2, 3)
        more_often = float(np.mean(np.array(gains) > 0)) >= level
        # So few resamples can be counted up to the 95% level, not beyond.
        return more_often and (sigmas <= SIGMAS or float(np.mean(gains)) > sigmas * float(np.std(gains)))


class LossMetric(Metric):
    """The validation loss, by the original loss function.

    Args:
        name: Its name.
        mode: ``min`` for the loss itself, ``max`` for its negative.
    """

    def __init__(self, name: str, mode: Mode) -> None:
        self.name, self.mode = name, mode

    def score(self, evaluation: Evaluation) -> Score:
        """Score an evaluation."""
        loss = evaluation.loss if math.isfinite(evaluation.loss) else math.inf
        share = 1.0 if math.isinf(loss) else _nonfinite(evaluation)
        return Score(-self.sign * loss, share, None, None)

    def with_blocks(self, score: Score, losses: Floats) -> Score:
        """Return a score with the losses of blocks of rows, shape (blocks,), which show its noise."""
        return Score(score.value, score.nonfinite, -np.asarray(losses), None)

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if math.isinf(old.value):
            return True
        if new.rows is None or old.rows is None or new.rows.shape != old.rows.shape:
            # A stream has no blocks: a gain of 5% is more than the effect of rounding and batch order.
            return self.gain(new, old) > 0.05 * abs(old.value) * sigmas / SIGMAS
        return significant(row_gains(new.rows, old.rows, np.ones(len(new.rows))), sigmas)


def _nonfinite(evaluation: Evaluation) -> float:
    outputs = np.asarray(evaluation.outputs)
    if not outputs.size or outputs.dtype.kind not in "fc":
        return 0.0
    return float(1 - np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1).mean())


def _constant(outputs: NDArray[Any]) -> bool:
    """Return whether a model predicts the same for all rows, so that a correlation, for example, is undefined."""
    return bool((outputs == outputs[:1]).all())


def _as_number(value: Any, name: str) -> float:
    array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise InputError(f"metric {name} must return one number, not {type(value).__name__} of shape {array.shape}")
    return float(array.reshape(()))
