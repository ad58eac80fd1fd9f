"""AT419: a custom backward pass that does not compute the derivative of its forward pass."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome

__all__ = ["WrongBackward"]


class WrongBackward(Rule):
    """A custom autograd function has a backward pass that is not the derivative of its forward pass.

    What it does
        Compares the backward pass of each `torch.autograd.Function` of the program with differences of its forward
        pass.

    Why it hurts
        Autograd takes what a custom backward pass returns for the gradient. With a wrong sign, factor or missing term,
        the layers before it do not descend on the loss, although nothing fails.

    Evidence used
        Probes of watched trainings (``watch(probe=True)``, ``autotrainer run --probe``) and of ``fit`` in PyTorch: the
        arguments of one call, in double precision, and for each input that requires a gradient five random directions:
        the derivative by the backward pass, and that by differences. Functions that return an input unchanged (reversed
        or clipped gradients), that are locally constant (rounding, signs) or that give no gradient are left out, and
        saturated entries of others; so are functions of installed packages. Then the outcome.

    Thresholds
        ``error``: relative difference of the derivatives; ``schedule``: share of the planned training from which it is
        an error in a model that has learned nothing.

    When it is wrong
        A surrogate gradient may be meant, such as that of an implicit layer that is solved approximately. So it is a
        warning, and an error only if the model stays at the level of the trivial predictor.

    Repairs
        Advice only: derive the backward pass again, and compare it by `torch.autograd.gradcheck`; or leave it to
        autograd.

    References
        PyTorch notes, "Gradcheck mechanics"; Griewank and Walther, Evaluating Derivatives, 2008.
    """

    problem = "wrong_backward"
    code = "AT419"
    aliases = ("wrong_gradient", "custom_backward", "wrong_custom_gradient", "autograd_function")
    phrases = (
        "custom backward is wrong",
        "autograd function gradient wrong",
        "check custom gradient",
        "gradcheck",
        "sign error in backward",
    )
    needs = OUTCOME_NEEDS | frozenset({"backward_error", "backward_ratio"})
    repairs = ()
    THRESHOLDS = thresholds(
        error=Threshold(0.01, "relative difference of derivatives", "about 1e-9 in double precision"),
        schedule=Threshold(
            0.15, "share of the schedule before an error", "benchmark goal: an error within a fifth", maximum=1
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        error, ratio = (context.asked.get(name, math.nan) for name in ("backward_error", "backward_ratio"))
        if not error >= self.threshold("error") or not math.isfinite(error):
            return None
        name = context.wrong_backward[0] if context.wrong_backward else "a function"
        others = len(context.wrong_backward) - 1
        more = f" (and of {others} more)" if others > 0 else ""
        if math.isfinite(ratio):
            how = "has the opposite sign" if math.isclose(ratio, -1, rel_tol=0.01) else f"is {ratio:.3g} times as large"
        else:
            how = f"differs by {error:.0%}"
        message = (
            f"The backward pass of {name}{more} is not the derivative of its forward pass: the gradient {how}. Unless "
            "that is meant, derive it again (torch.autograd.gradcheck)"
        )
        result = outcome(history, context)
        poor = result.known and result.stuck(0.2) and not result.moving()
        poor &= result.mature(self.threshold("schedule"))
        evidence = {"backward_error": error} | ({"backward_ratio": ratio} if math.isfinite(ratio) else {})
        if not poor:
            return self.finding(Severity.WARNING, 0.85, f"{message}.", evidence)
        return self.finding(result.worst, 0.9, f"{message}; {result.words}.", evidence)
