"""AT701: initial weights from which a network learns badly or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from autotrainer.findings import Finding, Severity
from autotrainer.history import RunHistory
from autotrainer.rule import Rule, Threshold
from autotrainer.rules._layers import inputs_vary, names, weight_layers
from autotrainer.rules._outcome import OUTCOME_NEEDS, outcome
from autotrainer.task import TaskContext

__all__ = ["PoorInitialization"]


class PoorInitialization(Rule):
    """Initial weights make the signal fade, blow up, or equal for all inputs.

    What it does
        Looks, at the first sampled step, at how far hidden activations differ between inputs, layer by layer, and
        for layers whose weights are all zero.

    Why it hurts
        A signal that fades from layer to layer gives every input the same answer; one that grows makes loss and
        first steps huge. Units that start equal stay equal.

    Evidence used
        Spread of each hidden layer's output across samples at the first step, its range over layers; weight norms.

    Thresholds
        ``fading`` and ``growing``: spread of the last ÷ first hidden layer; ``large``: spread of a hidden layer
        (inputs of usual scale).
        ``schedule``: share of the planned training from which a poor outcome makes it an error.

    When it is wrong
        Normalization and adaptive optimizers overcome a bad start: without a poor outcome it is a warning, and a
        model that has learned is not reported. Only a first layer that answers all inputs alike is an error at once.
        Zero weights in a single linear layer are fine.

    Repairs
        New initial weights (He for ReLU, LeCun for SELU, Glorot for tanh and sigmoid), normalization.

    References
        Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015; Mishkin and Matas (LSUV), ICLR 2016.
    """

    problem = "poor_initialization"
    code = "AT701"
    aliases = ("bad_initialization", "initialization", "poor_weight_initialization", "zero_weights", "bad_init")
    needs = OUTCOME_NEEDS | frozenset({"activation_spread", "activation_std", "weight_norm", "input_std"})
    causes = ("nonfinite_data", "abnormal_data")
    repairs = ("reinitialize", "insert_normalization", "swap_activation")
    static = True
    THRESHOLDS: ClassVar[Mapping[str, Threshold]] = MappingProxyType(
        {
            "fading": Threshold(1e-3, "spread of the last ÷ first hidden layer, at most", "calibrated", maximum=1),
            "growing": Threshold(1e3, "spread of the last ÷ first hidden layer, at least", "calibrated", 1),
            "large": Threshold(100, "spread of a hidden layer, at least", "LSUV keeps it at 1"),
            "schedule": Threshold(0.12, "share of the schedule before an error", "delay target of 20 %", maximum=1),
        }
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        if not len(history.steps) or history.steps[0] > 10:
            return None
        evidence: dict[str, float] = {}
        zero = self._zero_layers(history)
        reason, rows = (
            ("The initial weights of all hidden layers are zero", zero) if zero else self._signal(history, evidence)
        )
        if reason is None:
            return None
        constant = bool(zero) or evidence.get("first_spread") == 0
        result = outcome(history, context)
        if result.learned(0.5 if constant else 0.3):
            return None
        poor = result.diverged or (
            result.stuck() and result.mature(self.threshold("schedule")) and not result.moving(0.1)
        )
        severity = Severity.ERROR if constant or result.diverged else (result.worst if poor else Severity.WARNING)
        message = f"{reason}, and {result.words}." if poor and result.words else f"{reason}."
        confidence = 0.9 if constant else (0.75 if poor else 0.4)
        return self.finding(severity, confidence, message, evidence, layers=names(history, rows))

    @staticmethod
    def _zero_layers(history: RunHistory) -> list[int]:
        """Return all hidden weight layers if there are some and the weights of each are zero."""
        rows = [row for row in weight_layers(history) if history.layers[row].hidden]
        weights = history.layer("weight_norm")[0, rows]
        return rows if rows and (weights == 0).all() else []

    def _signal(self, history: RunHistory, evidence: dict[str, float]) -> tuple[str | None, list[int]]:
        """Return what is wrong with the signal in the hidden layers at the first step, and where."""
        spread = history.layer("activation_spread")[0]
        rows = [row for row in weight_layers(history) if history.layers[row].hidden and not math.isnan(spread[row])]
        if not rows or not inputs_vary(history):
            return None, []
        first, last = float(spread[rows[0]]), float(spread[rows[-1]])
        if first == 0:
            evidence["first_spread"] = first
            return "The output of the first layer is the same for all inputs", rows[:1]
        if len(rows) < 2:
            return None, []
        ratio = last / first
        evidence |= {"first_spread": first, "last_spread": last, "spread_ratio": ratio}
        ends = f"{first:.2g} in layer {history.layers[rows[0]].name} and {last:.2g} in {history.layers[rows[-1]].name}"
        if ratio <= self.threshold("fading"):
            faded = [row for row in rows if spread[row] <= first * math.sqrt(self.threshold("fading"))]
            return f"At the start, the signal fades from layer to layer: its spread over inputs is {ends}", faded
        if ratio >= self.threshold("growing"):
            grown = [row for row in rows if spread[row] >= first * math.sqrt(self.threshold("growing"))]
            return f"At the start, the signal grows from layer to layer: its spread over inputs is {ends}", grown
        largest = max(rows, key=lambda row: float(spread[row]))
        scale = history.scalar("input_std")
        usual = not np.isnan(scale[0]) and scale[0] <= 10
        if usual and spread[largest] >= self.threshold("large"):
            name = history.layers[largest].name
            return f"At the start, outputs of layer {name} spread by {spread[largest]:.2g} over inputs", [largest]
        return None, []
