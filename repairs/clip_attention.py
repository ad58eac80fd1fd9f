"""Bound attention logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ClipAttention
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ClipAttentionRepair"]

_LIMIT = 10.0
"""Largest logit: where Liu et al. 2022 start the scale of cosine attention (Swin Transformer V2, section 3.2)."""


class ClipAttentionRepair(Repair):
    """Bound attention logits by normalizing queries and keys.

    What it does:
        Queries and keys are brought to unit length, head by head, and multiplied such that a logit is at most 10:
        scaled cosine attention, a query-key normalization without parameters. Weights and their names stay. In all
        attention layers, and where `scaled_dot_product_attention` is called as a function in PyTorch.

    Why it helps:
        Logits that grow without bound turn the softmax into a hard choice, which passes back next to no gradient.
        Bounded ones can't, at whatever learning rate.

    Safety:
        Unsafe: the model computes something else from the same weights; pretrained attention has to adapt. Attention
        that must be sharper than logits of 10 allow is out of reach. Judged by outcome.

    Cost:
        Two normalizations a layer; in PyTorch's own attention layer two further projections.

    References:
        Henry et al. 2020, Query-Key Normalization (2010.04245); Liu et al. 2022, Swin Transformer V2 (2111.09883);
        Dehghani et al. 2023, ViT-22B (2302.05442); Zhai et al. 2023 (2303.06296); Kimi K2 2025 (2507.20534), QK-clip.
    """

    name = "clip_attention"
    fixes: ClassVar[dict[str, float]] = {"attention_entropy_collapse": 0.65}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it for all attention layers and for those that the finding names."""
        known = [layer.name for layer in context.layers if layer.kind == "attention" and not layer.frozen]
        layers = tuple(dict.fromkeys((*known, *finding.layers)))
        if layers:
            yield Proposal(self.name, (ClipAttention(layers, _LIMIT),), self.fixes[finding.problem])
