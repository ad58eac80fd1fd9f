"""The metric that judges trainings, and when one training is better than another by more than noise.

A metric with a value per row (accuracy, R², squared and absolute error) is compared row by row on the same
validation rows: a paired one-sided test at 95 %. Any other function of all rows is compared by a paired, seeded
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
from autotrainer.scoring.significance import SIGMAS, row_gains, significant

__all__ = ["LossMetric", "Metric", "Mode", "RowMetric", "Score", "WholeMetric"]

Mode = Literal["max", "min"]

_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Score:
    """An evaluation with its score.

    Attributes:
        value: The score in the metric's own sign.
        nonfinite: Share of rows with a prediction that is not finite.
        rows: Score of each row, higher is better, shape (rows,); None where the metric has none.
        weights: Weight of each row in the score (unmasked time steps), or None for equal weights.
        evaluation: What was judged, where it is needed for comparisons.
    """

    value: float
    nonfinite: float
    rows: Floats | None
    weights: Floats | None
    evaluation: Evaluation | None = field(repr=False, default=None)


class Metric(ABC):
    """A metric: gives scores and compares them."""

    name: str
    mode: Mode = "max"

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.mode == "max" else -1

    @abstractmethod
    def judge(self, evaluation: Evaluation) -> Score:
        """Score an evaluation.

        Raises:
            InputError: If the metric can't be computed from finite predictions.
        """

    def gain(self, new: Score, old: Score) -> float:
        """Return how much better a score is, positive where it is better; NaN where neither is finite."""
        if new.value == old.value:
            return 0.0
        return self.sign * (new.value - old.value)

    def better(self, new: Score, old: Score, sigmas: float = SIGMAS) -> bool:
        """Say whether a score is better by more than noise. Predictions that are not finite never win.

        Args:
            new: The score.
            old: The one that it is compared with.
            sigmas: Standard deviations of the noise that the gain must exceed.
        """
        if new.nonfinite > old.nonfinite or math.isnan(new.value):
            return False
        if math.isnan(old.value):
            return True
        return self.gain(new, old) > 0 and self._exceeds_noise(new, old, sigmas)

    @abstractmethod
    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        """Say whether a positive gain is more than noise."""


class RowMetric(Metric):
    """A metric that is the (weighted) mean of a value per row.

    Args:
        name: Its name.
        mode: Whether higher or lower is better.
        rows: Evaluation -> score of each row (higher is better), and weights or None.
        shown: Mean score -> value in the metric's own sign.
    """

    def __init__(
        self,
        name: str,
        mode: Mode,
        rows: Callable[[Evaluation], tuple[Floats, Floats | None]],
        shown: Callable[[float], float] = float,
    ) -> None:
        self.name, self.mode = name, mode
        self._rows, self._shown = rows, shown

    def judge(self, evaluation: Evaluation) -> Score:
        """Score an evaluation."""
        rows, weights = self._rows(evaluation)
        if weights is None and np.isnan(rows).any():  # a row whose time steps are all masked does not count
            weights = (~np.isnan(rows)).astype(np.float64)
        if weights is not None:
            rows = np.where(weights > 0, rows, 0.0)
            total = float(weights.sum())
            mean = float((rows * weights).sum() / total) if total else float("nan")
        else:
            mean = float(rows.mean())
        return Score(self._shown(mean), _nonfinite(evaluation), rows, weights)

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if new.rows is None or old.rows is None or new.rows.shape != old.rows.shape:
            return False
        weights = np.ones(len(new.rows)) if new.weights is None else new.weights
        plain = row_gains(new.rows, old.rows, weights)
        # The largest errors of a diverged model hide what happened to all other rows: look at limited ones too.
        limited = row_gains(np.clip(new.rows, -1, 1), np.clip(old.rows, -1, 1), weights)
        return significant(plain, sigmas) or significant(limited, sigmas)


class WholeMetric(Metric):
    """A function of all rows.

    Args:
        name: Its name.
        mode: Whether higher or lower is better.
        function: (targets, raw outputs) -> number.
        seed: Seed of the bootstrap.
    """

    def __init__(self, name: str, mode: Mode, function: Callable[[Any, Any], Any], seed: int) -> None:
        self.name, self.mode = name, mode
        self._function, self._seed = function, seed

    def judge(self, evaluation: Evaluation) -> Score:
        """Score an evaluation; one with predictions that are not finite has the worst score there is."""
        share = _nonfinite(evaluation)
        worst = -self.sign * math.inf
        value = worst if share else self._value(evaluation.targets, evaluation.outputs)
        if math.isnan(value) and not _constant(evaluation.outputs):
            raise InputError(
                f"metric {self.name} returned NaN, although predictions are finite and differ: let it return a number "
                "for whatever a model predicts, such as the worst score where it is not defined"
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
            except InputError:  # such as a draw without one of the classes
                continue
            gains.append(self.sign * gain)
        if len(gains) <= _RESAMPLES // 2:
            return False
        level = round(1 - math.erfc(min(sigmas, SIGMAS) / math.sqrt(2)) / 2, 3)
        told = float(np.mean(np.array(gains) > 0)) >= level
        # So few draws can be counted up to 95 %, not beyond.
        return told and (sigmas <= SIGMAS or float(np.mean(gains)) > sigmas * float(np.std(gains)))


class LossMetric(Metric):
    """The validation loss as given.

    Args:
        name: Its name.
        mode: ``min`` for the loss itself, ``max`` for its negative.
    """

    def __init__(self, name: str, mode: Mode) -> None:
        self.name, self.mode = name, mode

    def judge(self, evaluation: Evaluation) -> Score:
        """Score an evaluation."""
        loss = evaluation.loss if math.isfinite(evaluation.loss) else math.inf
        share = 1.0 if math.isinf(loss) else _nonfinite(evaluation)
        return Score(-self.sign * loss, share, None, None)

    def with_blocks(self, judged: Score, losses: Floats) -> Score:
        """Add the losses of blocks of rows, shape (blocks,), that noise is told by."""
        return Score(judged.value, judged.nonfinite, -np.asarray(losses), None)

    def _exceeds_noise(self, new: Score, old: Score, sigmas: float) -> bool:
        if math.isinf(old.value):
            return True
        if new.rows is None or old.rows is None or new.rows.shape != old.rows.shape:
            # A stream has no blocks: a gain of a twentieth is more than what rounding and batch order make.
            return self.gain(new, old) > 0.05 * abs(old.value) * sigmas / SIGMAS
        return significant(row_gains(new.rows, old.rows, np.ones(len(new.rows))), sigmas)


def _nonfinite(evaluation: Evaluation) -> float:
    outputs = np.asarray(evaluation.outputs)
    if not outputs.size or outputs.dtype.kind not in "fc":
        return 0.0
    return float(1 - np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1).mean())


def _constant(outputs: NDArray[Any]) -> bool:
    """Say whether a model answers all rows alike: a correlation, for one, is then not defined."""
    return bool((outputs == outputs[:1]).all())


def _as_number(value: Any, name: str) -> float:
    array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise InputError(f"metric {name} must return one number, not {type(value).__name__} of shape {array.shape}")
    return float(array.reshape(()))
