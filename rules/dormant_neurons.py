"""AT203: units that are almost inactive compared with the others of their layer."""

from __future__ import annotations

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import activated, names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import finite, last_median

__all__ = ["DormantNeurons"]

_SAMPLES = 8

_ROWS = 16
"""Smallest batch that distinguishes an inactive unit from one that responds to few inputs: a unit that responds to a
tenth of them is inactive throughout a fifth of all batches of 16, and throughout two thirds of those of 4."""

_USUAL = 0.5
"""Share of inactive units that healthy layers reach if the activation has a zero region."""

_DEAD = 0.7
"""Share of dead units (exactly zero for all inputs) from which `dying_relu` reports the layer."""

_MOST = 0.7
"""Share from which dormant units explain a poor outcome, like gamma of AUTOTRAINER for dead ones, and are a warning if
the outcome is unknown."""

_GAIN = 0.2
"""Rise of the share since the start that exceeds chance between batches."""


class DormantNeurons(Rule):
    """Many units of a layer are almost inactive compared with the others: part of the width is unused.

    What it does
        For each hidden layer, with any activation, measures the share of units whose mean output is at most a fortieth
        of the mean over all units of the layer.

    Why it hurts
        Dormant units contribute nothing to the output and learn almost nothing. If their share grows, as in
        reinforcement learning and other training on shifting targets, the network loses its ability to learn anything
        new.

    Evidence used
        Median over the last samples of each layer's share of dormant units, its rise since the start, and the outcome.
        If the activation has a zero region, only shares above the usual half count, and layers of dead units are left
        to `dying_relu`.

    Thresholds
        ``dormant``: share of dormant units of a layer; ``schedule``: share of the planned training from which a poor
        outcome counts.

    When it is wrong
        Wide networks need only part of their units: a model that has learned is not reported. Batches of fewer than 16
        rows can't distinguish a dormant unit from one that responds to few inputs. It is an error only if most units of
        a layer are dormant and the model stays at the level of the trivial predictor; if the outcome is unknown, it is
        a warning, and only if that share has grown and the loss no longer falls.

    Repairs
        Normalization, another activation (LeakyReLU, SELU), new initial weights, or a lower learning rate.

    References
        Sokar, Agarwal, Castro and Evci, The Dormant Neuron Phenomenon in Deep Reinforcement Learning, ICML 2023
        (arXiv 2302.12902), definition 3.1.
    """

    problem = "dormant_neurons"
    code = "AT203"
    aliases = ("dormant", "dormant_units", "inactive_units", "inactive_neurons", "plasticity_loss")
    phrases = (
        "neurons are inactive",
        "most neurons do nothing",
        "network stops learning new tasks",
        "loss of plasticity",
        "many units are inactive",
    )
    needs = OUTCOME_NEEDS | frozenset({"dormant", "dead_units"})
    causes = (
        "missing_zero_grad",
        "insufficient_capacity",
        "wrong_training_mode",
        "nonfinite_data",
        "abnormal_data",
        "unscaled_targets",
        "learning_rate_too_high",
        "exploding_gradient",
        "poor_initialization",
        "dying_relu",
        "saturated_activation",
    )
    repairs = ("revive_units", "insert_normalization", "swap_activation", "reinitialize", "scale_learning_rate")
    THRESHOLDS = thresholds(
        dormant=Threshold(0.3, "share of dormant units in a layer", "Sokar 2023", maximum=1),
        schedule=Threshold(0.25, "share of the schedule before a verdict", "not_learning", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if len(history.steps) < _SAMPLES:
            return None
        table = finite(history.layer("dormant"))
        shares = last_median(table)
        affected = self._affected(history, shares)
        sizes = history.scalar("batch_size")[-_SAMPLES:]
        if not affected or not float(last_median(sizes[:, None])[0]) >= _ROWS:
            return None
        result = outcome(history, context)
        if not result.mature(self.threshold("schedule")) or not np.isfinite(history.losses[1][-1:]).all():
            return None  # reported by nonfinite
        worst = max(affected, key=lambda row: float(shares[row]))
        share = float(shares[worst])
        gain = share - float(last_median(table[: _SAMPLES // 2, worst, None])[0])
        severity = self._severity(result, share, gain)
        if severity is None:
            return None
        message = f"{share:.0%} of the units of layer {history.layers[worst].name} are dormant (almost no output)"
        if result.words:
            message += f"; {result.words}"
        evidence = {"dormant": share, "gain": gain, "affected_layers": float(len(affected))}
        order = [worst, *[row for row in affected if row != worst]]
        confidence = 0.6 if severity is Severity.ERROR else 0.45  # too low to be named as a root cause
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, order))

    def _affected(self, history: RunHistory, shares: Floats) -> list[int]:
        if not (shares >= self.threshold("dormant")).any():
            return []
        dead = last_median(history.layer("dead_units"), 3)
        rows = []
        for row in activated(history):
            layer = history.layers[row]
            if not layer.hidden or layer.kind in ("embedding", "dropout", "pool", "reshape") or np.isnan(shares[row]):
                continue
            zero_region = not np.isnan(dead[row])
            least = max(self.threshold("dormant"), _USUAL) if zero_region else self.threshold("dormant")
            if shares[row] >= least and shares[row] > 0 and not dead[row] >= _DEAD:
                rows.append(row)
        return rows

    @staticmethod
    def _severity(result: Outcome, share: float, gain: float) -> Severity | None:
        if not result.known:
            return Severity.WARNING if share >= _MOST and gain >= _GAIN and not result.moving() else None
        if not result.stuck(0.2) or result.moving(0.1):
            return None
        return result.worst if share >= _MOST else Severity.WARNING
