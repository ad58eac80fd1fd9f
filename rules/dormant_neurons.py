"""AT203: units that hardly give anything beside the others of their layer."""

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
"""Smallest usual batch that tells a silent unit from one that answers few inputs: one that answers a tenth of them
is silent throughout a batch of 16 in a fifth of all batches, in one of 4 in two thirds."""

_USUAL = 0.5
"""Share of silent units that healthy layers have where the activation has a zero region."""

_DEAD = 0.7
"""Share of dead units (exactly zero, for all inputs) from which `dying_relu` speaks of the layer."""

_MOST = 0.7
"""Share from which dormant units are the reason of a poor outcome, as gamma of AUTOTRAINER is for dead ones, and worth
a look where the outcome is not known."""

_GAIN = 0.2
"""Rise of the share since the start that is more than chance between batches."""


class DormantNeurons(Rule):
    """Many units of a layer hardly give anything beside the others: the layer uses a part of its width.

    What it does
        Looks at each hidden layer for the share of units whose mean output is at most a fortieth of the mean over all
        units of the layer, whatever the activation.

    Why it hurts
        Dormant units carry nothing forward and learn next to nothing. Where their share grows, as in reinforcement
        learning and other training on shifting targets, the network loses its ability to learn anything new.

    Evidence used
        Median over the last samples of each layer's share of dormant units, its rise since the start, and the
        outcome. Where the activation has a zero region, only shares beyond the usual half count, and layers of dead
        units are left to `dying_relu`.

    Thresholds
        ``dormant``: share of dormant units of a layer; ``schedule``: share of the planned training from which a poor
        outcome counts.

    When it is wrong
        Wide networks get by with a part of their units: nothing is said of a model that has learned. Batches of fewer
        than 16 rows can't tell a dormant unit from one for few inputs. An error only where most units of a layer are
        dormant and the model stays at the trivial predictor's level; without a known outcome it is a warning, and only
        where that share has grown and the loss falls no more.

    Repairs
        Normalization, another activation (LeakyReLU, SELU), new initial weights, a lower learning rate.

    References
        Sokar, Agarwal, Castro and Evci, The Dormant Neuron Phenomenon in Deep Reinforcement Learning, ICML 2023
        (arXiv 2302.12902), definition 3.1.
    """

    problem = "dormant_neurons"
    code = "AT203"
    aliases = ("dormant", "dormant_units", "inactive_units", "inactive_neurons", "plasticity_loss")
    needs = OUTCOME_NEEDS | frozenset({"dormant", "dead_units"})
    causes = (
        "missing_zero_grad",
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
        schedule=Threshold(0.25, "share of the schedule before it is judged", "not_learning", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
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
            return None  # what is not finite is for nonfinite to tell
        worst = max(affected, key=lambda row: float(shares[row]))
        share = float(shares[worst])
        gain = share - float(last_median(table[: _SAMPLES // 2, worst, None])[0])
        severity = self._severity(result, share, gain)
        if severity is None:
            return None
        message = f"{share:.0%} of the units of layer {history.layers[worst].name} give next to nothing"
        if result.words:
            message += f", and {result.words}"
        evidence = {"dormant": share, "gain": gain, "affected_layers": float(len(affected))}
        order = [worst, *[row for row in affected if row != worst]]
        confidence = 0.6 if severity is Severity.ERROR else 0.45  # too little to be named as a root
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, order))

    def _affected(self, history: RunHistory, shares: Floats) -> list[int]:
        if not (shares >= self.threshold("dormant")).any():
            return []
        dead = last_median(history.layer("dead_units"), 3)
        found = []
        for row in activated(history):
            layer = history.layers[row]
            if not layer.hidden or layer.kind in ("embedding", "dropout", "pool", "reshape") or np.isnan(shares[row]):
                continue
            zero_region = not np.isnan(dead[row])
            least = max(self.threshold("dormant"), _USUAL) if zero_region else self.threshold("dormant")
            if shares[row] >= least and shares[row] > 0 and not dead[row] >= _DEAD:
                found.append(row)
        return found

    @staticmethod
    def _severity(result: Outcome, share: float, gain: float) -> Severity | None:
        if not result.known:
            return Severity.WARNING if share >= _MOST and gain >= _GAIN and not result.moving() else None
        if not result.stuck(0.2) or result.moving(0.1):
            return None
        return result.worst if share >= _MOST else Severity.WARNING
