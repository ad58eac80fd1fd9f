"""AT212: evaluations of the same batch that differ."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome

__all__ = ["UnstableEvaluation"]

_NAMES = ("evaluation_noise", "evaluation_state", "noise_source", "stable_outputs")
_SOURCES = (
    "noise is left on",
    "random numbers are added or drawn",
    "dropout is left on",
    "dropout of attention weights is left on",
)
_DROPOUT = 2


class UnstableEvaluation(Rule):
    """Two evaluations of the same batch in evaluation mode give different outputs.

    What it does
        Calls a copy of the model in evaluation mode repeatedly on the same rows: with the same random numbers, with
        others, and without resetting its buffers.

    Why it hurts
        Noise that training needs is damage in evaluation: scores are lower and noisier than the model deserves, and the
        best epoch is chosen by luck. Dropout that is called as a function is on in evaluation mode unless it is told
        otherwise: ``F.dropout(x, p, self.training)``, ``dropout_p=self.p if self.training else 0.0``.

    Evidence used
        Root mean square of the change with other random numbers, relative to the spread of the outputs over rows; which
        function drew the numbers; how many outputs do not change; and the change without other random numbers, by a
        state that the model carries from call to call.

    Thresholds
        ``noise``: relative noise from which it is a warning; ``large``: from which it is an error with a poor outcome.

    When it is wrong
        Dropout in evaluation mode may be meant (Monte Carlo dropout). A model that samples (a variational autoencoder,
        a policy) draws random numbers by design: if another of its outputs, or a loss that it adds (``add_loss``), does
        not change, this is a note. So is a state that is kept between calls, as of a stateful recurrent layer.

    Repairs
        Advice only: make noise depend on the mode of the model.

    References
        Srivastava et al., Dropout, JMLR 2014, section 10; Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML
        2016 (where it is meant).
    """

    problem = "unstable_evaluation"
    code = "AT212"
    aliases = ("nondeterministic_evaluation", "dropout_in_evaluation", "noisy_evaluation")
    phrases = (
        "evaluating twice gives different results",
        "same input gives different output",
        "dropout active in eval mode",
        "evaluation is not deterministic",
    )
    needs = OUTCOME_NEEDS | frozenset(_NAMES)
    static = True
    THRESHOLDS = thresholds(
        noise=Threshold(1e-3, "noise ÷ spread over rows", "below it, no prediction changes that is not a tie"),
        large=Threshold(
            0.5, "the same, from which it can explain a poor outcome", "an eighth of the variance is noise"
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {name: v for name in _NAMES if not math.isnan(v := context.asked.get(name, math.nan))}
        noise, state = evidence.get("evaluation_noise", 0.0), evidence.get("evaluation_state", 0.0)
        if state >= self.threshold("noise"):
            message = (
                f"Two evaluations of the same batch differ by {state:.2g} of the spread over rows without any random "
                "number: the model keeps a state between calls. Reset it before each sequence, unless it is meant."
            )
            return self.finding(Severity.INFO, 0.7, message, evidence)
        if noise < self.threshold("noise"):
            return None
        source = int(evidence.get("noise_source", 0))
        message = (
            f"Two evaluations of the same batch differ by {noise:.2g} of the spread over rows: {_SOURCES[source]} in "
            "evaluation mode"
        )
        if source < _DROPOUT and evidence.get("stable_outputs", 0) > 0:
            return self.finding(Severity.INFO, 0.6, f"{message}; a model that samples is meant to do so.", evidence)
        result = outcome(history, context)
        poor = noise >= self.threshold("large") and result.known and result.stuck(0.2) and not result.moving()
        severity = result.worst if poor and result.mature(0.5) else Severity.WARNING
        words = f", and {result.words}" if severity is Severity.ERROR else ""
        advice = "make it depend on the mode of the model (self.training)"
        return self.finding(severity, 0.85 if source >= _DROPOUT else 0.7, f"{message}{words}; {advice}.", evidence)
