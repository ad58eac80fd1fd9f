"""AT403: parameters with gradients that no optimizer changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotrainer.records.signals import LayerInfo
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import last_median, recent

__all__ = ["ParametersNotOptimized"]

_LEAST = 5
"""Sampled steps over which weights must not have changed."""

_DRAWN = frozenset({"dense", "conv", "recurrent", "embedding"})
"""Kinds of layers whose weights tell whether they were ever trained."""

_ENOUGH = 512
"""Parameters of a layer from which they tell it."""

_MANY_ZEROS = 0.5
"""Share of zeros in a gradient from which the sampled weights may be those that did not have to change."""


class ParametersNotOptimized(Rule):
    """Some trainable parameters have gradients, but no optimizer changes them.

    What it does
        Names the layers with parameters that are in no group of any optimizer, and those that an optimizer owns but
        that do not change.

    Why it hurts
        These layers keep their start for the whole training. The rest has to make do with what they give at random.

    Evidence used
        The optimizers' groups, gradient norms, and weight norms that are the same to the last bit over half the run
        while those of other layers change, or get no gradient through what is left out: parameters that another
        optimizer, not watched, trains do change. Then which layers these are, whether their weights still look as an
        initializer has drawn them, and the outcome.

    Thresholds
        ``good_score`` from which layers that may have been left out on purpose are no more than a fact;
        ``harmless`` from which even a forgotten layer is only worth a look; ``minor``, the share of all parameters up
        to which they are too few to matter much; ``step``, the relative change that a step should make; ``schedule``,
        the share of the planned training from which the outcome of layers left out on purpose counts.

    When it is wrong
        Training a new head on a fixed pretrained network (linear probing) leaves layers out on purpose: where these are
        the first ones, whole parts or most of the model without the output layer, and have been trained before, it is a
        fact as long as the rest learns. ``requires_grad_(False)`` says so for certain, and saves their gradients; so
        does a parameter group of theirs with a learning rate of 0.

    Repairs
        What is missing is added. By hand: give the optimizer ``model.parameters()``, or add it with
        ``add_param_group``; build it after the model has got its last layer.

    References
        PyTorch documentation, torch.optim; Humbatova et al., ICSE 2020; Alain and Bengio, arXiv 1610.01644 (probes).
    """

    problem = "parameters_not_optimized"
    code = "AT403"
    aliases = ("unowned_parameters", "forgotten_parameters", "optimizer_parameters", "missing_parameters")
    needs = OUTCOME_NEEDS | frozenset({"grad_zero_fraction", "weight_norm", "update_ratio", "learning_rate"})
    repairs = ("complete_optimizer",)
    THRESHOLDS = thresholds(
        good_score=Threshold(0.7, "skill that is good enough", "Theta of AUTOTRAINER", maximum=1.0),
        harmless=Threshold(0.8, "skill from which the harm is small", "what little is left to gain", maximum=1.0),
        minor=Threshold(0.02, "share of all trainable parameters, at most", "biases of wide layers", maximum=1.0),
        step=Threshold(
            1e-4, "learning rate × gradient norm ÷ weight norm, at least", "1000 times the precision of float32"
        ),
        schedule=Threshold(0.1, "share of the schedule before the outcome counts", "not_learning", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        window = recent(history.steps, 0.5, _LEAST)
        weights = history.layer("weight_norm")[window]
        if len(weights) < _LEAST:
            return None
        known = np.isfinite(weights).all(axis=0)
        still = known & (weights == weights[0]).all(axis=0)
        suspects = [row for row, layer in enumerate(layers) if still[row] or layer.unowned]
        gradients = last_median(history.layer("grad_norm"))
        owned = [row for row, layer in enumerate(layers) if layer.parameters > layer.unowned and not layer.frozen]
        cut_off = bool(owned) and bool((gradients[owned] == 0).all())  # by what is left out: nothing else can change
        if not suspects or not ((known & ~still).any() or cut_off):
            return None
        graded = gradients[suspects] > 0
        suspects = [row for row, has_gradient in zip(suspects, graded, strict=True) if has_gradient]
        left = [row for row in suspects if layers[row].unowned and (still[row] or _partial(layers[row]))]
        lost = [row for row in suspects if not layers[row].unowned and self._lost(history, layers[row], row, window)]
        return self._judge(history, context, layers, sorted(left + lost), bool(lost)) if left or lost else None

    def _lost(self, history: RunHistory, layer: LayerInfo, row: int, window: slice) -> bool:
        """Say whether weights that did not change, although an optimizer owns them, should have changed."""
        if not layer.parameters or layer.frozen or layer.kind == "embedding":
            return False
        gradients, weights = history.layer("grad_norm")[:, row], history.layer("weight_norm")[:, row]
        with np.errstate(all="ignore"):
            steps = history.scalar("learning_rate") * gradients / weights
        zeros = last_median(history.layer("grad_zero_fraction")[:, [row]])[0]
        due = last_median(steps[:, None])[0] >= self.threshold("step") and zeros < _MANY_ZEROS
        return bool(due and (history.layer("update_ratio")[window, row] == 0).all())

    def _judge(
        self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo], rows: list[int], lost: bool
    ) -> Finding:
        count = sum(layers[row].unowned or layers[row].parameters for row in rows)
        total = max(1, sum(max(layer.parameters, layer.unowned) for layer in layers))
        result = outcome(history, context)
        partial = any(_partial(layers[row]) for row in rows)
        telling = [layers[row] for row in rows if layers[row].kind in _DRAWN and layers[row].unowned >= _ENOUGH]
        fresh = bool(telling) and all(layer.start == "drawn" for layer in telling)
        minor = count <= self.threshold("minor") * total or all(layers[row].kind == "norm" for row in rows)
        trained = bool(telling) and not any(layer.start == "drawn" for layer in telling) and count > total / 2
        on_purpose = all(layers[row].hidden for row in rows) and (trained or _whole_parts(layers, rows))
        if on_purpose and not (lost or partial or fresh):
            severity, confidence = self._probing(result)
        elif minor or result.learned(self.threshold("harmless")):
            severity, confidence = Severity.WARNING, 0.9
        else:
            severity, confidence = result.worst, 0.95
        told = names(history, rows)
        which = ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")
        why = "no optimizer changes them" if lost else "they are in no group of an optimizer"
        why += ", and they are still as they were drawn at random" if fresh and not lost else ""
        message = f"{count} of {total} trainable parameters have gradients but never change, in {which}: {why}"
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        evidence = {"parameters": float(count), "share": count / total, "layers": float(len(rows))}
        return self.finding(severity, confidence, message + ".", evidence, layers=told)

    def _probing(self, result: Outcome) -> tuple[Severity, float]:
        """Judge layers that may have been left out on purpose by what the rest makes of them."""
        if result.learned(self.threshold("good_score")) or not result.mature(self.threshold("schedule")):
            return Severity.INFO, 0.5
        if not result.known:
            return (Severity.INFO, 0.5) if result.trend.falling else (Severity.WARNING, 0.5)
        if result.moving(0.2):
            return Severity.WARNING, 0.6
        return (result.worst, 0.8) if not result.learned(0.5) else (Severity.WARNING, 0.6)


def _partial(layer: LayerInfo) -> bool:
    return 0 < layer.unowned < layer.parameters


def _whole_parts(layers: Sequence[LayerInfo], rows: list[int]) -> bool:
    """Say whether the layers are the first ones, or whole parts of the model."""
    left = set(rows)
    owning = [row for row, layer in enumerate(layers) if layer.parameters or layer.unowned]
    weighted = [row for row in owning if layers[row].kind != "norm"]
    if not any(row in left for row in weighted):
        return False
    count = sum(row in left for row in weighted)
    if all(row in left for row in weighted[:count]):
        return True
    parts: dict[str, list[int]] = {}
    for row in owning:
        parts.setdefault(layers[row].name.split(".")[0], []).append(row)
    inside = [part for part in parts.values() if left & set(part)]
    return all(len(part) > 1 and set(part) <= left for part in inside)
