"""Standardize the inputs inside the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

from autotrainer.edits import ScaleInputs
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ScaleInputsRepair"]


class ScaleInputsRepair(Repair):
    """Standardize the inputs inside the model.

    What it does:
        Subtracts the mean and divides by the standard deviation, per feature for tables and globally for images
        and sequences. Mean and standard deviation are computed on the training data only and kept in the
        model, so that validation data and later inputs are scaled in the same way. Numbers of a table that stand for
        missing values, such as -999, count for neither, and are replaced by the mean; if the targets depend on what is
        missing, by a value just outside the others.

    Why it helps:
        Inputs far from zero mean and unit variance make the loss ill-conditioned, and saturate or kill units.

    Safety:
        Safe if the evidence is about the inputs: the model gets the same information, and still takes the raw inputs.

    Cost:
        One pass over the training data.

    References:
        LeCun et al. 1998, Efficient BackProp, section 4.3; AUTOTRAINER (ICSE 2021).
    """

    name = "scale_inputs"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "abnormal_data": 0.9,
        "dying_relu": 0.3,
        "exploding_gradient": 0.25,
        "nonfinite": 0.25,
        "not_learning": 0.3,
        "worse_than_simple_model": 0.35,
        "slow_convergence": 0.3,
        "vanishing_gradient": 0.15,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose scaling, unless the inputs are indices, or have unit scale and no numbers for missing values."""
        coded = "missing_code" in finding.evidence and context.input_kind != "index"
        if coded or (context.input_kind not in ("index", "scaled") and not _unit_scale(finding.evidence)):
            yield Proposal(self.name, (ScaleInputs(),), self.fixes[finding.problem])


def _unit_scale(evidence: Mapping[str, float]) -> bool:
    """Return whether the evidence shows inputs that scaling would hardly change."""
    std = evidence.get("input_std", math.nan)
    offset = evidence.get("input_offset", math.nan)
    ratio = evidence.get("input_scale_ratio", math.nan)
    return 0.3 <= std <= 3 and offset <= 3 and ratio <= 10
