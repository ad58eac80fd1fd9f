"""AT701: initial weights from which a network learns poorly or not at all."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.measurement import ZERO_REGION
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_skill
from autotrainer.rules._shared.layers import inputs_vary, names, squashing_layers, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import finite
from autotrainer.rules._shared.words import about

__all__ = ["PoorInitialization"]

_POOR = 0.7
"""Skill of a model that has come to rest, up to which units that start equal are the likely cause, as in
`insufficient_capacity`."""

_GOOD = 0.8
"""Skill from which the size of the initial weights does not matter."""

_ACTIVATION_SAMPLES = 5
"""Samples from which `vanishing_gradient` and `dying_relu` judge layers whose activation is the cause."""

_ROUNDING = 1e-6
"""Spread, relative to size, up to which values are equal except for rounding."""

_FEW = 4
"""Sampled steps without any gradient, at a loss above 0, after which none is to be expected."""

_MOVED = 0.1
"""Change of the weights ÷ their norm before the first sample from which they are no longer the initial ones."""


class PoorInitialization(Rule):
    """Initial weights make the signal fade, blow up, or become equal for all inputs.

    What it does
        At the first sampled step, checks layer by layer how far hidden activations differ between inputs, and looks for
        layers whose weights are all zero or the same for all units.

    Why it hurts
        If the signal fades from layer to layer, the output is the same for every input; if it grows, the loss and the
        first steps are huge. Units that start equal stay equal unless the next layer weights them differently: together
        they are worth one unit.

    Evidence used
        Spread of each hidden layer's output across samples at the first step, compared between layers; weight norms;
        and whether weights are equal for all units of a layer and for all inputs of the next one.

    Thresholds
        ``fading`` and ``growing``: spread of the last ÷ first hidden layer. ``large``: spread of a hidden layer (for
        inputs of usual scale). ``loud``: norm of a layer's weights ÷ square root of its number of units. ``schedule``:
        share of the planned training from which a poor outcome makes this an error.

    When it is wrong
        Normalization and adaptive optimizers overcome a bad start: without a poor outcome this is a warning, and a
        model that has learned is not reported. Only these are errors at once: zero weights that let no signal through,
        a first layer whose output is the same for all inputs, units that stay equal, and trained weights that are all
        zero and receive no gradient, beside frozen ones. Sigmoids let the signal fade whatever the initializer, and
        ReLU units that are zero for all inputs are dead: `vanishing_gradient` and `dying_relu` report these, from their
        first samples on. Equal units are a warning where the next layer's weights differ, in the first layer as well,
        because their gradients then differ; they are an error where the model comes to rest with a poor result. Weights
        far larger than usual are reported up to skill 0.8; those of the output layer, by `abnormal_initial_loss`. Zero
        weights at the end of a residual branch, an adapter or the model are fine.

    Repairs
        New initial weights (He for ReLU, LeCun for SELU, Glorot for tanh and sigmoid), or normalization layers.

    References
        Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015; Mishkin and Matas (LSUV), ICLR 2016; on equal units:
        Goodfellow et al., Deep Learning, section 8.4.
    """

    problem = "poor_initialization"
    code = "AT701"
    aliases = (
        "bad_initialization",
        "initialization",
        "poor_weight_initialization",
        "zero_weights",
        "constant_weights",
        "bad_init",
    )
    phrases = (
        "weights initialized to zero",
        "all weights are the same",
        "neurons start with the same weights",
        "wrong weight initialization",
        "initial weights too large",
        "initial weights too small",
        "which initializer to use",
    )
    needs = OUTCOME_NEEDS | frozenset(
        {
            "activation_spread",
            "update_ratio",
            "activation_std",
            "activation_mean_abs",
            "weight_norm",
            "grad_norm",
            "output_spread",
            "output_min",
            "output_max",
            "input_std",
        }
    )
    causes = ("nonfinite_data", "abnormal_data", "abnormal_normalization", "sibling_outlier")
    repairs = ("reinitialize", "insert_normalization", "swap_activation", "add_residual", "scale_output_layer")
    static = True
    THRESHOLDS = thresholds(
        fading=Threshold(1e-3, "spread of the last ÷ first hidden layer, at most", "calibrated", maximum=1),
        growing=Threshold(1e3, "spread of the last ÷ first hidden layer, at least", "calibrated", 1),
        large=Threshold(100, "spread of a hidden layer, at least", "LSUV keeps it at 1"),
        loud=Threshold(10, "weights ÷ usual ones, at least", "He and Glorot: 0.6 to 1.4"),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not len(history.steps) or history.steps[0] > 10 or _moved(history):
            return None
        found = self._equal_units(history, context) or self._zero_factors(history)
        if found is not None:
            return found
        evidence: dict[str, float] = {}
        zero = self._dead_zero_layers(history)
        reason, rows = (
            ("The initial weights of hidden layers are zero and let no signal through", zero)
            if zero
            else self._signal(history, evidence)
        )
        if reason is None:
            return None
        constant = bool(zero) or evidence.get("first_spread") == 0
        result = outcome(history, context)
        loud = "weight_size" in evidence
        skill = float(np.fmin(result.skill, held_out_skill(history, context)))  # models with large weights memorize
        if skill >= _GOOD if loud else result.learned(0.5 if constant else 0.3):
            return None
        poor = self._is_poor(result)
        severity = Severity.ERROR if constant or result.diverged else (result.worst if poor else Severity.WARNING)
        message = f"{reason}, and {result.words}." if poor and result.words else f"{reason}."
        confidence = 0.9 if constant else (0.6 if poor or loud else 0.4)
        return self.finding(severity, confidence, message, evidence, layers=names(history, rows))

    def _is_poor(self, result: Outcome) -> bool:
        return result.diverged or (
            result.stuck() and result.mature(self.threshold("schedule")) and not result.moving(0.1)
        )

    def _equal_units(self, history: RunHistory, context: TaskContext) -> Finding | None:
        rows = weight_layers(history)
        layers = [history.layers[row] for row in rows]
        equal = [
            i
            for i, layer in enumerate(layers)
            if layer.hidden and not layer.frozen and layer.start in ("constant", "equal_units")
        ]
        if not equal:
            return None
        # Gradients of equal units are equal where the next layer weighs its inputs equally, and so they stay equal.
        following = [layers[i + 1].start if i + 1 < len(layers) else "" for i in equal]
        kept = sum(start in ("constant", "equal_inputs", "zero") for start in following)
        result = outcome(history, context)
        if result.learned(0.8 if kept else 0.5):
            return None
        poor = self._is_poor(result) or (result.high <= _POOR and result.mature(0.5) and not result.moving())
        severity = Severity.ERROR if kept or poor else Severity.WARNING
        others = len(equal) - 1
        more = f" (and of {others} more hidden layer{'s' * (others > 1)})" if others else ""
        units = layers[equal[0]].units
        effect = "so they get the same gradients" if kept else "and only the next layer weights them differently"
        many = "units" if units is None else f"{units} units"
        reason = f"All {many} of layer {layers[equal[0]].name}{more} start with the same weights, {effect}"
        message = f"{reason}; {result.words}." if poor and result.words else f"{reason}."
        evidence = {
            "equal_layers": float(len(equal)),
            "staying_equal": float(kept),
            "weight_layers": float(len(layers)),
        }
        affected = names(history, [rows[i] for i in equal])
        return self.finding(severity, 0.95 if kept else 0.6, message, evidence, layers=affected)

    def _zero_factors(self, history: RunHistory) -> Finding | None:
        """Return a finding if all that is trained starts at zero beside frozen weights, and receives no gradient."""
        trained = [row for row, each in enumerate(history.layers) if each.parameters > each.unowned and not each.frozen]
        frozen = any(layer.frozen for layer in history.layers)
        weights, gradients = (history.layer(name)[:, trained] for name in ("weight_norm", "grad_norm"))
        if len(trained) < 2 or not frozen or len(weights) < _FEW or weights.any() or gradients.any():
            return None
        if not history.scalar("loss").any():
            return None  # nothing is to be learned
        message = (
            "All weights that are trained, beside frozen ones, start at zero and receive no gradient: of two matrices "
            "that are multiplied, as in an adapter, one must start with random values."
        )
        return self.finding(Severity.ERROR, 0.95, message, {}, layers=names(history, trained))

    def _loud(self, history: RunHistory, rows: list[int], evidence: dict[str, float]) -> list[int]:
        """Return the layers whose weights are far larger than the usual initializers', the largest first."""
        units = np.array([history.layers[row].units or math.nan for row in rows], np.float64)
        sizes = finite(history.layer("weight_norm")[0, rows]) / np.sqrt(units)
        if not (sizes >= self.threshold("loud")).any():
            return []
        evidence["weight_size"] = float(np.nanmax(sizes))
        order = np.argsort(-np.nan_to_num(sizes), kind="stable")
        return [rows[place] for place in order if sizes[place] >= self.threshold("loud")]

    @staticmethod
    def _is_alike(history: RunHistory, first: int) -> bool:
        """Return whether the output of the first hidden layer is the same for all inputs."""
        spread, size = (float(history.layer(f"activation_{name}")[0, first]) for name in ("spread", "mean_abs"))
        alike = spread == 0 or (math.isfinite(spread) and spread <= _ROUNDING * size)
        return alike and (history.layers[first].start != "zero" or _same_output(history))

    @staticmethod
    def _dead(history: RunHistory, rows: list[int]) -> bool:
        """Return whether units are dead from the start: some layer's output is zero for all inputs."""
        size = history.layer("activation_mean_abs")[0]
        return any(size[row] == 0 and history.layers[row].activation in ZERO_REGION for row in rows)

    @staticmethod
    def _dead_zero_layers(history: RunHistory) -> list[int]:
        """Return hidden layers with zero weights that let no signal through, forward or backward.

        These are all hidden layers, or one whose output is zero before or after an activation with slope zero there,
        if the model's output is the same for all inputs: else there is a path around it, as with a residual branch.
        """
        if not _same_output(history):
            return []
        rows = [row for row in weight_layers(history) if history.layers[row].hidden]
        weights, size = history.layer("weight_norm")[0], history.layer("activation_mean_abs")[0]
        zero = [row for row in rows if weights[row] == 0 or history.layers[row].start == "zero"]
        if len(zero) == len(rows):
            return zero
        return [row for row in zero if size[row] == 0 and history.layers[row].activation in ZERO_REGION]

    def _signal(self, history: RunHistory, evidence: dict[str, float]) -> tuple[str | None, list[int]]:
        """Return what is wrong with the signal in the hidden layers at the first step, and where."""
        if not inputs_vary(history):
            return None, []
        spread = history.layer("activation_spread")[0]
        rows = [row for row in weight_layers(history) if history.layers[row].hidden and not math.isnan(spread[row])]
        if not rows:
            return None, []
        if self._is_alike(history, rows[0]):
            evidence["first_spread"] = 0.0
            return "The output of the first layer is the same for all inputs", rows[:1]
        loud = self._loud(history, rows, evidence)
        if loud:
            times, name = evidence["weight_size"], history.layers[loud[0]].name
            return f"The initial weights of layer {name} are too large, {about(times)} times the usual size", loud
        # Layers with zero weights end a branch, such as a residual one: what counts is the path around them.
        rows = [row for row in rows if history.layers[row].start != "zero"]
        if len(rows) < 2 or spread[rows[0]] == 0 or not np.isfinite(spread[rows]).all():
            return None, []  # values that are not finite are for nonfinite to report
        if len(history.steps) >= _ACTIVATION_SAMPLES and (squashing_layers(history) or self._dead(history, rows)):
            return None, []
        first, last = float(spread[rows[0]]), float(spread[rows[-1]])
        ratio = last / first
        evidence |= {"first_spread": first, "last_spread": last, "spread_ratio": ratio}
        start, end = (history.layers[rows[i]].name for i in (0, -1))
        ends = f"its spread across inputs is {first:.2g} in layer {start} and {last:.2g} in layer {end}"
        if ratio <= self.threshold("fading"):
            faded = [row for row in rows if spread[row] <= first * math.sqrt(self.threshold("fading"))]
            return f"With the initial weights, the signal fades from layer to layer: {ends}", faded
        if ratio >= self.threshold("growing"):
            grown = [row for row in rows if spread[row] >= first * math.sqrt(self.threshold("growing"))]
            return f"With the initial weights, the signal grows from layer to layer: {ends}", grown
        largest = max(rows, key=lambda row: float(spread[row]))
        scale = history.scalar("input_std")
        usual = not np.isnan(scale[0]) and scale[0] <= 10
        if usual and spread[largest] >= self.threshold("large"):
            name, value = history.layers[largest].name, about(spread[largest])
            return f"With the initial weights, outputs of layer {name} are too large: their spread is {value}", [
                largest
            ]
        return None, []


def _moved(history: RunHistory) -> bool:
    """Return whether the steps before the first sample may have changed the weights: they are not the initial ones."""
    ratios = history.layer("update_ratio")[:, weight_layers(history)]
    ratios = ratios[np.isfinite(ratios)]
    return bool(ratios.size) and bool(history.steps[0] * np.max(ratios, initial=0.0) > _MOVED)


def _same_output(history: RunHistory) -> bool:
    """Return whether the model's output is the same for all inputs of the first sampled step, as far as is known."""
    spread, *ends = (float(history.scalar(name)[0]) for name in ("output_spread", "output_min", "output_max"))
    return math.isnan(spread) or (math.isfinite(spread) and spread <= _ROUNDING * max(map(abs, ends)))
