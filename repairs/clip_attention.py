"""Bound attention logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ClipAttention
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ClipAttentionRepair"]

_LIMIT = 10.0
"""Largest logit: the initial scale of cosine attention in Liu et al. 2022 (Swin Transformer V2, section 3.2)."""


class ClipAttentionRepair(Repair):
    """Bound attention logits by normalizing queries and keys.

    What it does:
        Normalizes queries and keys to unit length, head by head, and scales them so that a logit is at most 10: scaled
        cosine attention, a query-key normalization without parameters. Weights and their names stay. Applies to all
        attention layers, and to calls of the function `scaled_dot_product_attention` in PyTorch.

    Why it helps:
        Logits that grow without bound turn the softmax into a hard choice, which passes back almost no gradient.
        Bounded logits can't, whatever the learning rate.

    Safety:
        Unsafe: the model computes something else from the same weights; pretrained attention has to adapt. Attention
        sharper than logits of 10 allow can no longer be expressed. Judged by outcome.

    Cost:
        Two normalizations per layer; two more projections in PyTorch's built-in attention layer.

    References:
        Henry et al. 2020, Query-Key Normalization (2010.04245); Liu et al. 2022, Swin Transformer V2 (2111.09883);
        Dehghani et al. 2023, ViT-22B (2302.05442); Zhai et al. 2023 (2303.06296); Kimi K2 2025 (2507.20534), QK-clip.
    """

    name = "clip_attention"
    fixes: ClassVar[dict[str, float]] = {"attention_entropy_collapse": 0.65}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it for all attention layers and the layers that the finding names."""
        attention = [layer.name for layer in context.layers if layer.kind == "attention" and not layer.frozen]
        layers = tuple(dict.fromkeys((*attention, *finding.layers)))
        if layers:
            yield Proposal(self.name, (ClipAttention(layers, _LIMIT),), self.fixes[finding.problem])
