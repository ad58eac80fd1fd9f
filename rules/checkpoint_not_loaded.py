"""AT415: a pretrained model whose weights, or part of them, are not the pretrained ones."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from autotrainer.records.measurement import names_positions
from autotrainer.records.signals import LayerInfo
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.words import about

__all__ = ["CheckpointNotLoaded"]

_FEWEST = 4
"""Layers with a recognizable origin that tell whether a whole network was trained before."""

_MOST = 0.9
"""Share of them that decides."""

_SOON, _LATE = 0.1, 0.9
"""Share of the schedule from which a poor outcome is no mere start, and from which it won't get better."""

_LITTLE = 0.2
"""Skill up to which what was learned before is of no use, as in `ignored_positions`."""

_GOOD = 0.8
"""Skill from which a new output layer has evidently been learned, as in `embedding_unused`."""

_FEWEST_TRAINED = 2
"""Trained blocks like a new one that show that it belongs to them, rather than to a new head of one like block."""


class CheckpointNotLoaded(Rule):
    """A pretrained model starts with weights that were not trained, or that do not belong to its inputs.

    What it does
        Looks for blocks, or positions, that are newly initialized while the others are trained, for a trained network
        whose own output layer predicts no better than all classes being equally likely, for a model that belongs to a
        checkpoint although all its weights are newly initialized, and for trained weights that are of no use.

    Why it hurts
        What was learned before is lost: all of it, or what lies behind the blocks that are random. With another
        tokenizer, or other labels, than in the first training, each index means something else. A short fine-tuning at
        a low learning rate can't learn it again.

    Evidence used
        The weights before the first step. Normalizations that still have one constant as scale and one as bias were
        never trained; one of any other value were. Matrices whose units and inputs differ more than independent entries
        can were trained. A new output layer on a trained network is usual: only a trained one, or one that is tied to
        an embedding or has its shape, must predict something. The first loss, if it is a plain cross-entropy. Then the
        outcome.

    Thresholds
        ``loss``: first loss ÷ that of predicting all classes as equally likely; ``skill``: skill from which that is
        only a fact.

    When it is wrong
        Blocks that are drawn anew on purpose: it is a warning. If they are the last ones, which are often added, or
        drawn anew for a new task, it is a fact unless the model does poorly. Other trained networks are a fact, too:
        one that is confident of the task it was trained for starts worse than chance on another one. They are a
        warning as long as the model does poorly, and an error if it ends so. A checkpoint's
        configuration that is used to train from scratch is a fact, unless the model does poorly. Trained weights may be
        of no use for other reasons, above all a high learning rate: it is a warning of little confidence.

    Repairs
        Advice only: look at what ``load_state_dict(strict=False)`` returns as missing and unexpected keys (prefixes
        such as ``module.``), use ``from_pretrained`` instead of ``from_config``, and the checkpoint's own tokenizer.

    References
        PyTorch documentation, torch.nn.Module.load_state_dict; Karpathy, A Recipe for Training Neural Networks, 2019
        (verify loss at init); Wang and Chen, What Do Position Embeddings Learn?, EMNLP 2020; Zhang et al., Revisiting
        Few-sample BERT Fine-tuning, ICLR 2021 (last blocks drawn anew).
    """

    problem = "checkpoint_not_loaded"
    code = "AT415"
    aliases = ("weights_not_loaded", "pretrained_not_loaded", "random_checkpoint", "wrong_tokenizer")
    phrases = (
        "pretrained weights not loaded",
        "some weights were newly initialized",
        "checkpoint is not loaded",
        "fine tuning starts from random weights",
        "missing keys in state dict",
        "wrong tokenizer",
    )
    needs = OUTCOME_NEEDS
    static = True
    causes = (
        "nonfinite_data",
        "target_mismatch",
        "wrong_training_mode",
        "parameters_not_optimized",
        "abnormal_normalization",
        "sibling_outlier",
        "rows_mixed",
        "broken_attention_mask",
        "ignored_positions",
        "learning_rate_too_low",
    )
    THRESHOLDS = thresholds(
        loss=Threshold(1.0, "first loss ÷ that of predicting all classes as equally likely", "knows nothing", 0.5),
        skill=Threshold(
            0.3, "skill from which that is only a fact", "models of text predict a third of the tokens", maximum=1
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not len(history.steps) or history.steps[0] != 0:
            return None
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        return (
            self._new_blocks(history, context, layers)
            or self._new_positions(history, context, layers)
            or self._random_predictions(history, context, layers)
            or self._nothing_trained(history, context, layers)
            or self._useless(history, context, layers)
        )

    def _new_blocks(self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]) -> Finding | None:
        """Return a finding if some blocks of a series are newly initialized and others are trained."""
        series: dict[str, dict[str, list[LayerInfo]]] = {}
        for layer in layers:
            match = _BLOCK.match(layer.name)
            if match is not None:
                series.setdefault(match[1], {}).setdefault(match[2], []).append(layer)
        for prefix, blocks in series.items():
            trained = [_parts(block) for block in blocks.values() if _is_trained(block)]
            new = [
                n for n, block in blocks.items() if _is_new(block) and trained.count(_parts(block)) >= _FEWEST_TRAINED
            ]
            if not new:
                continue
            result = outcome(history, context)
            added = new == list(blocks)[-len(new) :]
            poor = result.known and not result.learned(0.5) and result.mature(0.5)
            severity, confidence = (Severity.INFO, 0.5) if added and not poor else (Severity.WARNING, 0.75)
            series_words = f"{len(new)} of {len(blocks)} blocks" + (f" of {prefix}" if prefix else "")
            numbers = ", ".join(new[:4]) + ", …" * (len(new) > 4)
            message = (
                f"{series_words} ({numbers}) have weights that were never trained, while the others are trained: a "
                f"checkpoint was loaded only in part{', or they were added or drawn anew on purpose' * added}."
            )
            names = tuple(layer.name for number in new for layer in blocks[number])
            evidence = {"new_blocks": float(len(new)), "blocks": float(len(blocks))}
            return self.finding(severity, confidence, message, evidence, layers=names)
        return None

    def _new_positions(self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]) -> Finding | None:
        """Return a warning if the positions of a trained network are newly drawn, and the model does poorly.

        Learned positions are alike where they are close, so that they can't be taken for independent entries (Wang and
        Chen, EMNLP 2020). Those of a longer context are often drawn anew.
        """
        new = [x for x in layers if x.kind == "embedding" and x.origin == "drawn" and names_positions(x.name)]
        if not new or not _was_trained(layers):
            return None
        result = outcome(history, context)
        if not result.known or result.learned(0.5) or not result.mature(0.5):
            return None
        message = (
            f"The weights were trained before, but positions {new[0].name} look newly drawn: the checkpoint lacks "
            f"them, or was made for another length; {result.words}."
        )
        return self.finding(Severity.WARNING, 0.7, message, {"skill": result.skill}, layers=(new[0].name,))

    def _random_predictions(
        self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]
    ) -> Finding | None:
        """Return a finding if a trained network with an output layer for its own tokens starts no better than chance.

        Its output layer is a trained one, or one over the rows of an embedding, which belongs to the checkpoint even if
        it is newly drawn.
        """
        uniform = _uniform_loss(history, context)
        first = float(history.data_losses[0])
        outputs = [
            layer for layer in layers if not layer.hidden and (layer.kind in ("dense", "other") or layer.tie == "kept")
        ]
        kept = [layer for layer in outputs if layer.tie == "kept" or layer.origin == "trained"]
        drawn = [layer for layer in outputs if layer.origin == "drawn" and _over_tokens(layer, layers)]
        if not (uniform > 0 and math.isfinite(first)) or not _was_trained(layers) or not (kept or drawn):
            return None
        if first < self.threshold("loss") * uniform:
            return None
        result = outcome(history, context)
        evidence = {"first_loss": first, "uniform_loss": uniform}
        losses = f"the first loss is {about(first, 3)}, and predicting all classes as equally likely gives "
        losses += f"{about(uniform, 3)}"
        late = result.known and not result.learned(self.threshold("skill")) and result.mature(_SOON)
        if not kept:
            message = (
                f"The weights were trained before, but {drawn[0].name}, which predicts the tokens that the network "
                f"embeds, is newly drawn: {losses}. The checkpoint lacks it, or it is no longer tied to the embedding."
            )
            severity = Severity.INFO if result.learned(_GOOD) else Severity.WARNING
            return self.finding(severity, 0.7 if late else 0.6, message, evidence, layers=(drawn[0].name,))
        message = (
            f"The weights were trained before, output layer {kept[0].name} included, but {losses}: the task is new to "
            "it, or the weights belong to another tokenizer, vocabulary or order of positions, or to other labels"
        )
        poor = late and result.high <= self.threshold("skill") and result.mature(_LATE)
        severity, confidence = (Severity.WARNING, 0.6) if late else (Severity.INFO, 0.5)
        severity, confidence = (result.worst, 0.75) if poor else (severity, confidence)
        message += f"; {result.words}." if poor and result.words else "."
        return self.finding(severity, confidence, message, evidence, layers=(kept[0].name,))

    def _useless(self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]) -> Finding | None:
        """Return a warning if a trained network with embeddings has learned nothing by half time."""
        result = outcome(history, context)
        embeds = any(layer.kind == "embedding" for layer in layers)
        if not (embeds and _was_trained(layers) and result.known and result.mature(0.5)):
            return None
        if not result.stuck(_LITTLE) or result.moving():
            return None
        message = (
            f"The weights were trained before, but are of no use to this task: {result.words}. Often the tokenizer, "
            "the embeddings or the order of positions belong to another model, or steps are so large that they undo it."
        )
        evidence = {"skill_high": result.high, "progress": result.progress}
        return self.finding(Severity.WARNING, 0.4, message, evidence)

    def _nothing_trained(
        self, history: RunHistory, context: TaskContext, layers: Sequence[LayerInfo]
    ) -> Finding | None:
        """Return a finding if a model belongs to a checkpoint, but all its weights are newly initialized."""
        origins = [layer.origin for layer in layers if layer.origin]
        drawn = origins.count("drawn")
        new = len(origins) >= _FEWEST and drawn >= _MOST * len(origins) and "trained" not in _norm_origins(layers)
        if not (context.checkpoint and new and _norm_origins(layers)):
            return None
        result = outcome(history, context)
        poor = result.known and not result.learned(0.5) and result.mature(0.5)
        message = (
            f"The model's configuration names a checkpoint, but {drawn} of {len(origins)} layers look newly "
            "initialized: it trains from scratch"
        )
        message += f"; {result.words}." if poor and result.words else "."
        severity = Severity.WARNING if poor else Severity.INFO
        evidence = {"new_layers": float(drawn), "layers": float(len(origins))}
        return self.finding(severity, 0.6, message, evidence)


_BLOCK = re.compile(r"(.*?)[._/]?(\d+)(?=[._/])")
"""Name of a series of blocks, and the number of one: ``encoder.layer.11.attention``, ``block_3/norm``."""


def _norm_origins(layers: Sequence[LayerInfo]) -> list[str]:
    return [layer.origin for layer in layers if layer.kind == "norm" and layer.origin]


def _was_trained(layers: Sequence[LayerInfo]) -> bool:
    """Return whether a network was trained before, as almost all of its normalizations show."""
    origins = _norm_origins(layers)
    return len(origins) > 1 and origins.count("trained") >= _MOST * len(origins)


def _over_tokens(output: LayerInfo, layers: Sequence[LayerInfo]) -> bool:
    """Return whether an output layer has one unit for each row of the embedding of tokens, of the same width.

    Of several embeddings, that of the tokens has most rows: a head of two classes has the shape of one of two segments.
    """
    tables = [layer for layer in layers if layer.kind == "embedding" and not names_positions(layer.name)]
    tokens = max(tables, key=lambda layer: layer.inputs or 0, default=None)
    return tokens is not None and (tokens.inputs, tokens.units) == (output.units, output.inputs)


def _parts(block: Sequence[LayerInfo]) -> frozenset[tuple[str, int | None, int | None]]:
    """Return names, without that of the block, and sizes of a block's layers: equal for blocks that are alike."""
    return frozenset((_BLOCK.sub("", layer.name, count=1), layer.units, layer.inputs) for layer in block)


def _is_new(block: Sequence[LayerInfo]) -> bool:
    """Return whether a block was certainly never trained: its normalizations are exactly as initialized."""
    return bool(_norm_origins(block)) and all(layer.origin in ("drawn", "") for layer in block)


def _is_trained(block: Sequence[LayerInfo]) -> bool:
    norms = _norm_origins(block)
    return bool(norms) and all(origin == "trained" for origin in norms)


def _uniform_loss(history: RunHistory, context: TaskContext) -> float:
    """Return the loss of predicting all classes as equally likely; 0 if the loss is not a plain cross-entropy."""
    loss, units = context.loss, context.output_units or 0
    plain = loss.family == "cross_entropy" and loss.standard and loss.reduction == "mean" and not loss.weighted
    return math.log(units) if plain and units > 1 and context.kind(history.targets) == "multiclass" else 0.0
