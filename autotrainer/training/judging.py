"""Scores a training that has ended, and judges whether it came out better than a constant prediction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from autotrainer.adapter.spec import FitRequest, Trained, TrainingSpec
from autotrainer.edits import StopEarly
from autotrainer.records.data import ArrayData, Data
from autotrainer.records.signals import Floats
from autotrainer.scoring.metrics import LossMetric, RowMetric
from autotrainer.scoring.scorer import Judgement, Scorer
from autotrainer.scoring.significance import FEW_ROWS, SIGMAS, significant
from autotrainer.training.run import ManagedRun

__all__ = ["finalize_score", "judge"]

_BLOCKS = 20
"""Blocks of validation rows from which the noise of a loss is estimated."""
_MIN_BLOCK = 4
"""Fewest rows of a block in which inputs are permuted."""
_TRAINING_ROWS = 1000
"""Maximum training rows on which a model is judged where the validation rows are too few."""
_MIN_EFFECT = 0.01
"""Smallest share by which a loss must be below that of the mean output of each batch."""
_ZERO = 1e-5
"""Loss that is 0 but for rounding, as of cosines of equal outputs in single precision."""
_SAME_LOSS = 1e-6
"""Relative difference of losses up to which they are equal but for rounding."""


def finalize_score(trained: Trained, spec: TrainingSpec, run: ManagedRun, scorer: Scorer, validation: Data) -> None:
    """Score the returned weights if they are not those of the last epoch, and measure the losses of blocks of rows.

    These show the noise of a loss, and, where the rows are too few for any other metric, whether a gain is real.
    """
    restored = any(isinstance(edit, StopEarly) for edit in trained.edits or spec.edits)
    if restored and run.spend(run.validation_rows, training=False):
        run.evaluation = trained.evaluate(validation)
        run.score = scorer.score(run.evaluation)
    metric = scorer.metric
    if run.score is None or not isinstance(validation, ArrayData) or validation.rows < 2:
        return
    if isinstance(metric, LossMetric) and run.spend(validation.rows, training=False):
        run.score = metric.with_blocks(run.score, _block_losses(trained, validation))
    few = validation.rows <= FEW_ROWS and isinstance(metric, RowMetric) and not metric.exact
    if few and run.spend(validation.rows, training=False):
        with run.monitor.guard("validation losses"):  # some models fail on a single row
            run.score = replace(run.score, losses=_block_losses(trained, validation))


def _block_losses(trained: Trained, validation: ArrayData) -> Floats:
    parts = np.array_split(np.arange(validation.rows), min(_BLOCKS, validation.rows))
    return np.array([trained.evaluate(validation.take(part)).loss for part in parts], dtype=np.float64)


def judge(trained: Trained, run: ManagedRun, scorer: Scorer, request: FitRequest) -> bool:
    """Return whether a training came out clearly better than a constant prediction, and report the scores as facts.

    Where the validation rows are too few for any score to be clearly better, training rows are judged.
    """
    if run.score is None or not run.judged:
        return not run.judged
    in_training = request.judged_on == "training"
    judgement, rows = scorer.judge(run.score), run.validation_rows
    better = judgement.clear if in_training else judgement.better
    if math.isnan(judgement.constant) and isinstance(scorer.metric, LossMetric):
        moved = _has_fallen(run) and _uses_inputs(trained, run, request.validation)
        return moved and _beats_constants(trained, run, request)
    if not judgement.decisive and not in_training:
        better = judgement.clear
        other = _judge_training_rows(trained, run, scorer, request.train)
        if other is not None:
            judgement, rows = other
            better, in_training = judgement.clear, True
    if not math.isnan(judgement.constant):
        facts = {"above_constant": better, "metric_score": judgement.score, "constant_score": judgement.constant}
        facts |= {"judged_rows": rows, "judged_in_training": in_training}
        run.monitor.learn({name: float(value) for name, value in facts.items()})
    return better


def _judge_training_rows(
    trained: Trained, run: ManagedRun, scorer: Scorer, train: Data
) -> tuple[Judgement, int] | None:
    if not isinstance(train, ArrayData):
        return None
    rows = train.take(np.arange(min(train.rows, _TRAINING_ROWS)))
    if not run.spend(rows.rows, training=False):
        return None
    judgement = scorer.judge_rows(trained.evaluate(rows))
    return None if math.isnan(judgement.constant) else (judgement, rows.rows)


def _has_fallen(run: ManagedRun) -> bool:
    """Return whether the loss is lower than at the first step, on validation data or on training data; else report it.

    For losses of which nothing else is known, such as those that a ``step`` computes from several outputs.
    """
    steps, losses = run.monitor.history.losses
    if run.evaluation is None or not len(losses) or steps[0] != 0 or not math.isfinite(losses[0]):
        return True
    ends = (run.evaluation.training_loss, run.history.get("loss", [math.nan])[-1])
    loss = min((value for value in ends if math.isfinite(value)), default=math.inf)
    late = losses[-max(2, len(losses) // 3) :]
    noise = float(late.std()) if np.isfinite(late).all() else 0.0  # the first loss is that of a single batch
    if loss < losses[0] + SIGMAS * noise:
        return True
    run.monitor.learn({"above_constant": 0.0, "metric_score": loss, "first_loss": float(losses[0])})
    return False


def _outputs_matter(trained: Trained, run: ManagedRun, validation: Data) -> bool:
    """Return whether a loss is lower than if all rows of a batch had their mean output; else report it.

    Equal outputs may be a loss's optimum, as for Siamese networks that compare views of a row: their loss is then zero
    or negative, and shows nothing. Nor do losses around zero, such as that of a policy gradient.
    """
    if trained.losses_with_mean_outputs is None or not run.spend(2 * run.validation_rows, training=False):
        return True
    losses, with_means = trained.losses_with_mean_outputs(validation)
    if not len(losses) or not np.isfinite(losses).all() or run.validation_rows <= len(losses):
        return True
    own, constant = float(losses.mean()), float(with_means.mean())
    if constant <= _ZERO or (run.monitor.history.losses[1] < 0).any() or own < (1 - _MIN_EFFECT) * constant:
        return True
    facts = {"above_constant": 0.0, "metric_score": own, "constant_score": constant}
    run.monitor.learn(facts | {"judged_rows": float(run.validation_rows)})
    return False


def _beats_constants(trained: Trained, run: ManagedRun, request: FitRequest) -> bool:
    """Return whether a loss is lower than with the best constant outputs; else report it.

    A likelihood far from its optimum can depend on the inputs and yet be far above that of a constant. Losses of which
    equal outputs may be the optimum show nothing, as in `_outputs_matter`; nor do those without targets, whose outputs
    may hold the inputs that they are compared with.
    """
    if trained.losses_with_constant_outputs is None or run.context.loss.ignores_targets:
        return True
    run.spend(run.validation_rows, training=False)  # it runs in any case, as a verdict needs it
    with run.monitor.guard("constant outputs"):
        losses, constants, work = trained.losses_with_constant_outputs(request.train, request.validation)
        run.afford(work)
        if not len(losses) or not np.isfinite((losses, constants)).all():
            return True
        own, constant = float(losses.mean()), float(constants.mean())
        if own < constant or constant <= _ZERO or (run.monitor.history.losses[1] < 0).any():
            return True
        facts = {"above_constant": 0.0, "metric_score": own, "constant_score": constant}
        run.monitor.learn(facts | {"judged_rows": float(run.validation_rows)})
        return False
    return True


def _uses_inputs(trained: Trained, run: ManagedRun, validation: Data) -> bool:
    """Return whether a loss of which no constant prediction is known is lower with each row's own inputs.

    Without that, the predictions are no better than constant ones. A loss that does not depend on which targets belong
    to which inputs, such as a contrastive one, shows nothing, and passes.
    """
    if not isinstance(validation, ArrayData) or validation.rows < 2 * _MIN_BLOCK:
        return _outputs_matter(trained, run, validation)
    if not run.spend(2 * validation.rows, training=False):
        return True
    order = np.random.default_rng(0).permutation(validation.rows)  # neighbouring rows may be of the same class
    parts = np.array_split(order, min(_BLOCKS, validation.rows // _MIN_BLOCK))
    losses = []
    for part in parts:
        own = validation.take(part)
        other = ArrayData(validation.take(np.roll(part, 1)).inputs, own.targets, own.weights)
        losses.append((trained.evaluate(own).loss, trained.evaluate(other).loss))
    own_losses, other_losses = np.array(losses).T
    gains = np.nan_to_num(other_losses - own_losses, nan=0.0, posinf=0.0, neginf=0.0)
    if (np.abs(gains) <= _SAME_LOSS * np.abs(own_losses)).all() and np.isfinite(own_losses).all():
        return True
    better = significant(gains)
    facts = {"above_constant": better, "metric_score": own_losses.mean(), "permuted_loss": other_losses.mean()}
    run.monitor.learn({name: float(value) for name, value in (facts | {"judged_rows": validation.rows}).items()})
    return better
