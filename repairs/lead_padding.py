"""Move padding from the end of token sequences to their start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import LeadPadding
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["LeadPaddingRepair"]

_PADDED = 0.25
"""Share of indices that repeat the one before, from which sequences are padded, as in `vanishing_gradient`."""


class LeadPaddingRepair(Repair):
    """Move padding from the end of token sequences to their start, inside the model.

    What it does:
        Finds the token that pads the end of the training sequences, and moves it before the tokens of each sequence
        that the model gets, in training and prediction. The data stay as they are.

    Why it helps:
        A recurrent layer whose last output is used reads the padding last, and has forgotten the tokens by then. With
        the padding first, its last output follows the last token.

    Safety:
        Safe: the tokens and their order stay the same. Only models with a single input of tokens and one output for
        each row are changed, as lengths, masks and outputs by position would no longer fit. In Keras, Sequential and
        Functional models only.

    Cost:
        None. Packed sequences (`pack_padded_sequence`) leave the padding out altogether, and save time.

    References:
        Dwarampudi and Subba Reddy, Effects of padding on LSTMs and CNNs, 2019 (1903.07288); PyTorch documentation,
        pack_padded_sequence; Keras guide, Masking and padding.
    """

    name = "lead_padding"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"vanishing_gradient": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it where a recurrent layer has forgotten padded tokens."""
        if finding.evidence.get("equal_indices", 0.0) >= _PADDED and targets.rank <= 2:
            yield Proposal(self.name, (LeadPadding(),), self.fixes[finding.problem])
