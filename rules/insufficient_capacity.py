"""AT412: a model that can't even fit its training data, because it is too small or too restricted."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autotrainer.records.signals import linear_layers
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import CHANCE, SIMPLE_NEEDS, best_simple_model, lead_of_simple_model
from autotrainer.rules._shared.held_out import held_out_skill
from autotrainer.rules._shared.layers import names, norm_ratios, shrunk_norms, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.siblings.blocks import SIBLING_NEEDS, sibling_stacks
from autotrainer.rules._shared.steps import decay_share
from autotrainer.rules._shared.trends import last_median

__all__ = ["InsufficientCapacity"]

_WIDE_OUTPUT = 4
"""Classes from which two units are a bottleneck, as one unit is for two classes."""

_GATES = ("sigmoid", "hard_sigmoid", "hardsigmoid")
"""Activations of a layer that gates another branch."""

_FAIR = 0.85
"""Skill up to which such a limit is a warning, and an error if hidden layers follow that receive a single number."""

_CODE, _NOISE = 0.3, 0.05
"""R² up to which the code of an autoencoder holds almost nothing of its input, and noise of such a value."""

_BEATEN = 0.1
"""Lead of a simple model on held-out rows from which such a limit is an error whatever the skill, as it is in
`worse_than_simple_model`."""

_FEW_UNITS = 4
"""Units of the widest hidden layer up to which a network is too small for what a non-linear simple model shows."""

_EARLY = 0.15
"""Share of the schedule from which a limit counts if nothing at all has been learned. The benchmark goal is an error
within a fifth of the run."""

_NOTHING = 0.1
"""Skill on held-out data up to which a model has learned nothing in spite of dropout, which acts in training alone."""

_VANISHED = 0.05
"""Norm of the weights ÷ that at the start up to which they have all but vanished, whatever pulls them to zero."""

_SAMPLES = 5


_Kind = Literal["chain", "narrow", "code", "dropout", "decay", "penalty", "vanished", "linear", "few"]


@dataclass(frozen=True, slots=True)
class _Limit:
    """What limits a model; `words` is a clause for the message."""

    kind: _Kind
    words: str
    evidence: dict[str, float]
    layers: tuple[str, ...] = ()


class InsufficientCapacity(Rule):
    """The training score itself stays low, and the model is clearly too small, or too restricted, to do better.

    What it does
        If training has settled far from a good score, looks for what limits the model: a hidden layer of one unit that
        all later layers depend on (of two, for four classes or more), hidden layers of four units at most where a
        simple model that is not linear does better or, in a managed training, the model is no better than a constant
        prediction, dropout that keeps almost nothing, weight decay or penalties that have shrunk the weights, weights
        that have all but vanished, or no non-linear layer at all, or none in the feed-forward layers of a transformer.

    Why it hurts
        Underfitting: neither more epochs nor another learning rate can fit what the model can't express.

    Evidence used
        Skill on training and validation data over the last half of the run, whichever is better; trend of the loss;
        units and number of parameters of adjacent layers (a dense layer whose parameters are those of one input depends
        on one unit); dropout rates; norm of the weights relative to the start, if the optimizer decays them or the
        model adds penalties of them to the loss; the loss of the outputs ÷ the whole loss; activations.

    Thresholds
        ``skill`` that the model has at most; ``schedule``: share of the planned training before it is judged, 0.15 if
        nothing at all was learned; ``dropout``: rate, at least; ``shrunk``: weights ÷ those at the start, at most;
        ``penalty``: largest share of the penalties in the loss, at least.

    When it is wrong
        Noisy labels limit the score of any model: without one of these limits nothing is reported. A linear model with
        hidden layers is at most a warning, unless a simple model that is not linear does better than both, and one
        without hidden layers is meant to be linear. One unit can be enough, and the
        code of an autoencoder is narrow on purpose: if there are more target values than units, it counts only if
        almost nothing was learned, or as little as that many principal components of sampled rows keep. Dropout lowers
        the training score itself: without a validation score it is a warning, and so it is without a known schedule.
        Where a simple model does better on held-out rows by 0.1 and more, such a limit is an error whatever the skill.
        Hidden layers after a single unit make it an error up to skill 0.85: they are there to learn more than one
        number can carry. Side branches of one unit (channel weights, adapters to frozen layers) do not count, nor do
        weights that a fit to small targets has shrunk: decay must be strong enough to have done it.

    Repairs
        Wider hidden layers; less dropout, less weight decay, no penalties; activations.

    References
        Goodfellow et al., Deep Learning, 2016, section 5.2; Srivastava et al., JMLR 2014, section 7.3 (dropout rates);
        Loshchilov and Hutter, ICLR 2019 (decoupled weight decay).
    """

    problem = "insufficient_capacity"
    code = "AT412"
    aliases = ("underfitting", "underfit", "too_few_units", "bottleneck", "too_small", "capacity")
    phrases = (
        "model is underfitting",
        "training accuracy is low",
        "model too small",
        "model cannot overfit a small dataset",
        "training loss stays high",
    )
    needs = (
        OUTCOME_NEEDS
        | SIMPLE_NEEDS
        | SIBLING_NEEDS
        | frozenset({"weight_norm", "dead_units", "data_loss", "simple_gap", "simple_gap_error", "above_constant"})
    )
    causes = (
        "parameters_not_optimized",
        "poor_initialization",
        "abnormal_normalization",
        "sibling_outlier",
        "wrong_schedule",
        "nonfinite_data",
        "improper_output_activation",
        "improper_loss",
        "target_mismatch",
        "unscaled_targets",
        "abnormal_data",
        "unshuffled_data",
        "learning_rate_too_high",
        "learning_rate_too_low",
    )
    repairs = ("resize_hidden_layers", "weaken_regularization", "add_activation")
    THRESHOLDS = thresholds(
        skill=Threshold(0.7, "skill over the trivial predictor, at most", "calibrated", maximum=1),
        schedule=Threshold(0.5, "share of the schedule before a verdict", "calibrated", maximum=1),
        dropout=Threshold(0.8, "dropout rate, at least", "Srivastava 2014: 0.2 to 0.6 are flat", maximum=1),
        penalty=Threshold(
            0.5, "largest share of penalties in the loss, at least", "more than the loss of the outputs", maximum=1
        ),
        shrunk=Threshold(0.5, "norm of the weights ÷ that at the start, at most", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        limit = self._limit(history, context)
        if limit is None:
            return None
        result = outcome(history, context)
        if not result.known or result.diverged:
            return None
        held_out = held_out_skill(history, context) if limit.kind == "dropout" else math.nan
        evident = limit.kind in ("chain", "narrow", "decay", "penalty", "vanished") or held_out <= _NOTHING
        clear = evident and result.stuck()  # nothing learned, for an evident reason
        if limit.kind == "vanished" and not clear:
            return None
        penalized = "penalty" in limit.evidence or limit.kind == "vanished"
        if result.moving() and not (penalized and clear):  # the loss falls with a penalty
            return None
        if not result.mature(min(_EARLY, self.threshold("schedule")) if clear else self.threshold("schedule")):
            return None
        high, bar = result.high, self.threshold("skill") if limit.kind in ("linear", "code") else _FAIR
        if not math.isnan(held_out):  # dropout lowers the score in training alone
            high = max(high, held_out)
        beaten = limit.kind != "code" and _beaten(history, context, curved=limit.kind in ("linear", "few"))
        if limit.kind == "few" and not (beaten or context.asked.get("above_constant") == 0):
            return None  # as many units may be enough
        if (high > bar and not beaten) or (limit.kind == "code" and not high <= _code_bound(context, bar)):
            return None
        norms = history.scalar("grad_norm")[-_SAMPLES:]
        norms = norms[np.isfinite(norms)]
        if (not norms.size or (norms == 0).all()) and not _dead(history, limit.layers):
            return None  # no gradient: another problem
        uncertain = (limit.kind == "linear" and not beaten) or (limit.kind == "dropout" and math.isnan(held_out))
        poor = (high <= (_FAIR if limit.kind == "chain" else self.threshold("skill")) or beaten) and not uncertain
        severity = result.worst if poor else Severity.WARNING
        message = f"{limit.words}, and {result.words} after {result.steps} steps."
        evidence = {**limit.evidence, "skill": result.skill, "skill_high": high, "progress": result.progress}
        low = high <= self.threshold("skill")
        usual = (0.9 if low else 0.7) if poor else 0.5
        confidence = usual if beaten else {"linear": 0.4, "code": 0.6}.get(limit.kind, usual)
        return self.finding(severity, confidence, message, evidence, layers=limit.layers)

    def _limit(self, history: RunHistory, context: TaskContext) -> _Limit | None:
        """Return what limits the model; None if nothing clearly does."""
        narrow = _bottleneck(history, context)
        if narrow is not None:
            return narrow
        rate = context.dropout or 0.0
        shrinking = self._shrinking(history, context)
        if rate >= self.threshold("dropout"):
            words, evidence = f"Dropout discards {rate:.0%} of the values of a layer", {"dropout": rate}
            if shrinking is None:
                return _Limit("dropout", words, evidence)
            words += f"; {shrinking.words[0].lower()}{shrinking.words[1:]}"
            return _Limit("dropout", words, evidence | shrinking.evidence, shrinking.layers)
        if shrinking is not None:
            return shrinking
        shrunk = shrunk_norms(history)
        if shrunk <= _VANISHED and context.kind(history.targets) != "regression":
            words = f"The weights have shrunk to {shrunk:.2g} times their initial norm, as by a penalty in the loss"
            return _Limit("vanished", words, {"shrunk": shrunk})
        if linear_layers(history.layers):
            return _Limit("linear", "The model is linear, as its hidden layers have no activation", {"linear": 1.0})
        plain = _linear_blocks(history)
        if plain:
            words = "The feed-forward layers of all blocks have no activation between their two matrices"
            return _Limit("linear", words, {}, names(history, plain))
        units, name = _widest(history)
        if 0 < units <= _FEW_UNITS:
            words = f"The widest hidden layer, {name}, has {units} unit{'s' * (units > 1)}"
            return _Limit("few", words, {"units": units}, (name,))
        return None

    def _shrinking(self, history: RunHistory, context: TaskContext) -> _Limit | None:
        """Return the weight decay or the penalties that have shrunk the weights; None if neither has."""
        decay, shrunk = context.optimizer.weight_decay, shrunk_norms(history)
        if decay > 0 and shrunk <= self.threshold("shrunk") and _by_decay(history, context, shrunk):
            words = f"Weight decay of {decay:g} has shrunk the weights to {shrunk:.2g} times their initial norm"
            return _Limit("decay", words, {"weight_decay": decay, "shrunk": shrunk})
        penalty = _penalty_share(history) if context.penalized else math.nan
        if penalty >= self.threshold("penalty"):
            name, least = _most_shrunk(history)
            if least <= self.threshold("shrunk"):
                words = (
                    f"Penalties of the weights, up to {penalty:.0%} of the loss, have shrunk those of layer {name} to "
                    f"{least:.2g} times their initial norm"
                )
                return _Limit("penalty", words, {"penalty": penalty, "shrunk": least}, (name,))
        return None


def _widest(history: RunHistory) -> tuple[int, str]:
    """Return units and name of the widest hidden layer; 0 if there is none, or any is neither dense nor recurrent."""
    hidden = [history.layers[row] for row in weight_layers(history) if history.layers[row].hidden]
    units = [layer.units or 0 for layer in hidden]
    if not units or not all(units) or any(layer.kind not in ("dense", "recurrent") for layer in hidden):
        return 0, ""
    widest = units.index(max(units))
    return units[widest], hidden[widest].name


def _beaten(history: RunHistory, context: TaskContext, *, curved: bool) -> bool:
    """Return whether a simple model does clearly better on held-out rows: more can be learned from these data.

    With ``curved``, it must also do as much better than a linear model.
    """
    best, linear = best_simple_model(context), context.asked.get("linear_score", math.nan)
    if curved and (best is None or not best.score - linear >= _BEATEN):
        return False
    lead = lead_of_simple_model(history, context)
    gap, error = (context.asked.get(name, math.nan) for name in ("simple_gap", "simple_gap_error"))
    return (lead is not None and lead.gap >= _BEATEN) or (gap >= _BEATEN and gap - CHANCE * error > 0)


def _bottleneck(history: RunHistory, context: TaskContext) -> _Limit | None:
    """Return the first hidden layer that is too narrow for the task and that all later layers depend on."""
    outputs = context.output_units or 1
    values = context.kind(history.targets) == "regression"
    enough = 2 if outputs >= _WIDE_OUTPUT and not values else 1
    rows = [history.layers[row] for row in weight_layers(history)]
    for layer, after in itertools.pairwise(rows):
        units, width = layer.units, after.units
        if not layer.hidden or layer.kind not in ("dense", "recurrent") or not units or units > enough or not width:
            continue
        if not after.hidden and outputs <= units and layer is not rows[0]:
            continue  # wide layers before it compute the prediction, which it only passes on
        if after.activation in _GATES or any(layer.frozen for layer in history.layers):
            continue  # a side branch: channel weights (squeeze and excitation), or an adapter to frozen layers
        # The next layer has weights for this number of inputs, with or without bias: these units are its only input.
        if after.kind == "dense" and after.parameters in (width * units, width * (units + 1)):
            count = "single unit" if units == 1 else f"{units} units"
            kind: _Kind = "code" if values and outputs > units else "chain" if after.hidden else "narrow"
            words = f"All later layers depend on the {count} of layer {layer.name}"
            return _Limit(kind, words, {"units": units}, (layer.name,))
    return None


def _code_bound(context: TaskContext, bar: float) -> float:
    """Return the R² up to which a code is too narrow: that of as many principal components, if they keep little."""
    components = None if "kernel_score" in context.asked else best_simple_model(context)
    return components.score + _NOISE if components is not None and _CODE < components.score <= bar else _CODE


def _dead(history: RunHistory, layers: tuple[str, ...]) -> bool:
    """Return whether the few units of these layers are dead."""
    dead = last_median(history.layer("dead_units"))
    return any(dead[row] == 1 for row, layer in enumerate(history.layers) if layer.name in layers)


def _most_shrunk(history: RunHistory) -> tuple[str, float]:
    """Return the layer whose weights have shrunk most, and their norm ÷ that at the first step; NaN if unknown."""
    ratios = norm_ratios(history)
    if not np.isfinite(ratios).any():
        return "", math.nan
    least = int(np.nanargmin(np.where(np.isfinite(ratios), ratios, np.nan)))
    return history.layers[weight_layers(history)[least]].name, float(ratios[least])


def _penalty_share(history: RunHistory) -> float:
    """Return the largest share of the loss that is not that of the outputs; NaN if it was not measured."""
    losses, alone = history.scalar("loss"), history.scalar("data_loss")
    with np.errstate(all="ignore"):
        shares = (losses - alone) / losses
    shares = shares[np.isfinite(shares) & (losses > 0)]
    return float(shares.max()) if shares.size else math.nan


def _by_decay(history: RunHistory, context: TaskContext, shrunk: float) -> bool:
    """Return whether decay is strong enough to have shrunk the weights: a fit to small targets shrinks them too."""
    share = decay_share(context, context.optimizer.learning_rate)
    if not math.isnan(share):
        return share * history.step >= -math.log(max(shrunk, 1e-300)) / 2  # half: the loss counteracts
    rows = weight_layers(history)  # decay is part of the gradient, which it must dominate
    weights, gradients = (last_median(history.layer(name))[rows] for name in ("weight_norm", "grad_norm"))
    return bool(np.median(context.optimizer.weight_decay * weights - gradients) >= 0)


def _linear_blocks(history: RunHistory) -> list[int]:
    """Return the first feed-forward matrices of all blocks with attention, if none of them has an activation or gate.

    Two matrices in a row are worth no more than one.
    """
    layers, found = history.layers, []
    for stack in sibling_stacks(history):
        kinds = {component.kind for component in stack.components}
        attends = "value" in kinds or any(layers[c.row].kind == "attention" for c in stack.components)
        if not attends or "gate" in kinds:
            continue
        for block in stack.blocks:
            first, second = (
                [c.row for c in stack.components if c.block == block and c.kind == kind]
                for kind in ("expand", "contract")
            )
            if len(first) != 1 or len(second) != 1 or layers[first[0]].units != layers[second[0]].inputs:
                return []
            if layers[first[0]].activation != "linear":
                return []
            found.append(first[0])
    return found
