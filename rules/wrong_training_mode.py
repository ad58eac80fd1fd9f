"""AT405: a model that trains in evaluation mode, or is evaluated in training mode."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent

__all__ = ["WrongTrainingMode"]

_MIN_STEPS = 5
"""Fewest sampled training steps for a verdict."""

_MIN_EVALUATIONS = 2
"""Fewest evaluations for a verdict: a single one may be a trial before training."""

_LATEST = 8
"""Latest evaluations that count: a corrected mode no longer matters."""


class WrongTrainingMode(Rule):
    """Dropout and batch normalization run in the wrong mode.

    What it does
        Checks the mode of a model with dropout or batch normalization in the forward passes of training steps, and in
        those of evaluations: passes without gradients that belong to a loss, or to the end of an epoch with results on
        held-out data.

    Why it hurts
        A model that trains in evaluation mode has neither dropout nor normalized activations, and its running
        statistics keep their initial values. A model that is evaluated in training mode drops units at random,
        normalizes by the batch, and includes the held-out data in its running statistics: its scores say little about
        the model.

    Evidence used
        Modes of the layers during the passes. A layer in another mode than the model was set so on purpose and does not
        count; nor does one that is frozen or belongs to a frozen part: fine-tuning with fixed normalization and dropout
        at test time over a model in evaluation mode are not reported.

    Thresholds
        ``share`` of the passes in the wrong mode; ``good_score`` from which training in evaluation mode does no harm
        worth a warning; ``dropout``, the rate from which an evaluation in training mode is an error.

    When it is wrong
        If it is intended: normalization by the batch at test time (as in meta-learning, style transfer, domain
        adaptation), or a pretrained model that is trained in evaluation mode to keep its statistics. Ignore
        ``wrong_training_mode`` then. Predictions averaged over dropout (Gal and Ghahramani 2016) are recognized, in
        PyTorch, by their passes over the same inputs.

    Repairs
        The mode is set before each pass. By hand: call ``model.train()`` before each epoch of training and
        ``model.eval()`` before each evaluation. In Keras, a custom ``call`` must accept ``training`` and pass it on;
        a ``train_step`` that does not give it is replaced by that of Keras.

    References
        PyTorch documentation, torch.nn.Module.train; Ioffe and Szegedy, ICML 2015; Srivastava et al., JMLR 2014.
    """

    problem = "wrong_training_mode"
    code = "AT405"
    aliases = ("wrong_mode", "eval_mode", "train_mode", "forgotten_eval", "forgotten_train")
    phrases = (
        "model.eval()",
        "model.train()",
        "forgot model.eval",
        "results differ in eval mode",
        "validation worse with model.eval",
        "predictions change every time",
        "dropout during evaluation",
    )
    needs = OUTCOME_NEEDS | frozenset({"training_mode"})
    repairs = ("set_mode", "replace_train_step")
    place = "mode"
    THRESHOLDS = thresholds(
        share=Threshold(0.8, "passes in the wrong mode, at least", "all except single ones", maximum=1.0),
        good_score=Threshold(0.7, "accuracy or R² that is good enough", "Theta of AUTOTRAINER", maximum=1.0),
        dropout=Threshold(
            0.1,
            "dropout rate from which scores in training mode can't be trusted",
            "rate of Transformers",
            0.0,
            1.0,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self._training(history, context) or self._evaluating(history, context)

    def _training(self, history: RunHistory, context: TaskContext) -> Finding | None:
        modes = history.scalar("training_mode")[recent(history.steps)]
        modes = modes[np.isfinite(modes)]
        wrong = float((modes == 0).mean()) if modes.size else 0.0
        if modes.size < _MIN_STEPS or wrong < self.threshold("share"):
            return None
        result = outcome(history, context)
        if result.learned(self.threshold("good_score")):
            severity = Severity.WARNING
        else:
            harmed = result.known and result.mature(0.1) and not result.moving(0.2)
            severity = result.worst if harmed else Severity.WARNING
        missing = "training=True" if context.framework == "keras3" else "model.train()"
        message = (
            f"The model was in evaluation mode in {wrong:.0%} of {modes.size} sampled training steps, so dropout and "
            f"batch normalization did not work as in training ({missing} is missing)"
        )
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        return self.finding(severity, 0.9, message + ".", {"training_share": wrong, "samples": float(modes.size)})

    def _evaluating(self, history: RunHistory, context: TaskContext) -> Finding | None:
        modes = history.epochs("evaluation_mode")[1]
        modes = modes[np.isfinite(modes)][-_LATEST:]
        wrong = float((modes == 1).mean()) if modes.size else 0.0
        if modes.size < _MIN_EVALUATIONS or wrong < self.threshold("share"):
            return None
        rate = context.dropout or 0.0
        drops = rate >= self.threshold("dropout")
        effect = "dropout discarded values at random" if drops else "it used batch statistics or slight dropout"
        return self.finding(
            Severity.ERROR if drops else Severity.WARNING,
            0.9 if drops else 0.6,
            f"The model was in training mode in {wrong:.0%} of the last {modes.size} evaluations: {effect}, so the "
            "scores are not those of the trained model (model.eval() is missing).",
            {"evaluation_share": wrong, "evaluations": float(modes.size), "dropout": rate},
        )
