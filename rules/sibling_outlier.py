"""AT207: a layer lastingly apart from the layers of its kind in the other blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import is_pretrained
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.siblings.blocks import SIBLING_NEEDS, Component, Stack, sibling_stacks
from autotrainer.rules._shared.siblings.comparison import Outlier, lasting_outliers, series_of
from autotrainer.rules._shared.siblings.suspects import (
    CERTAIN,
    ZERO,
    Suspect,
    bare_suspects,
    cut_suspects,
    dead_suspects,
    frozen_suspects,
    full_rank,
    outlier_suspect,
    position_suspects,
)
from autotrainer.rules._shared.trends import geometric_mean, last_median

__all__ = ["SiblingOutlier"]

_SAMPLES, _STEPS = 5, 16
"""Fewest samples, and fewest steps that they span."""

_SETTLED = 0.2
"""Share of the schedule from which gradients, outputs and attention are compared: they differ most at the start."""

_END_FACTOR = 3.0
"""Factor on their ratios in the first and last block."""

_FEW = 3
"""Blocks up to which the matrices of a block are compared with each other rather than with those of other blocks."""

_MIN_MATRICES = 4
"""Fewest matrices that are compared with each other."""

_GROWN = 2.0
"""Growth of weights since the start from which they start small on purpose."""

_FROM_ZERO = 10.0
"""Growth of a role's weights since the start from which its present size is that of its steps, which may differ."""

_FEED_FORWARD = frozenset({"expand", "gate", "contract"})

_DOMINATES = 2.0
"""Bias ÷ spread of the outputs from which a layer passes on little else."""

_SHOWN = 3
"""Components that a message names."""

_MATRICES = frozenset({"query", "key", "value", "projection", "expand", "contract"})
"""Roles whose initial weights are of one size in a block."""

_ADAPTIVE = ("adam", "rmsprop", "adagrad", "adadelta", "lion", "lamb", "lars", "adafactor")
"""Parts of the names of optimizers whose steps are of one size, however small the gradients."""


class SiblingOutlier(Rule):
    """A layer differs lastingly from the layers of its kind in the other blocks of the network.

    What it does
        Finds repeated blocks in names and order of the layers (``h.0.attn.q_proj``, ``transformer_block_1/dense_3``),
        and compares layers of one role, such as the key projections of all blocks: size of weights, gradients, steps
        and outputs, and of attention logits. Matrices that join queries, keys and values are taken apart.

    Why it hurts
        Blocks are built and initialized alike. One that stays apart was initialized, loaded, scaled, masked or frozen
        by mistake, or has died; the network trains around it and loses what it should do.

    Evidence used
        Root mean squares of weights and gradients, relative size of steps, spread of outputs over inputs, and largest
        attention logits, in the last two thirds of the sampled steps. On a logarithmic scale, the usual level of each
        role and of each block is taken out by a median polish, so that only a single layer stands out; what remains is
        compared with its spread over all layers. Small outputs and logits do not count: a block may not need its
        attention. In a network that was trained before, initial weights are compared, too: those that start small grow
        to the size of the steps. Weights that are exactly zero, never change, or never receive a
        gradient while those of their siblings do, count by themselves; so do the same shares of several projections of
        a block, whose gradient is exactly zero in all samples.

    Thresholds
        ``weight``, ``bias``, ``gradient``, ``step``, ``output`` and ``logit``: factors from which a layer is an
        outlier, if it is also five robust standard deviations from the others; ``unequal``, ``larger``: factors from
        which a role in all blocks, or a matrix of few blocks, is too small or too large beside the others (``larger``:
        positions beside tokens, too); ``skill``: skill over the trivial predictor from which it is no error;
        ``harmless``: the same for what is dead.

    When it is wrong
        Layers may be different on purpose: frozen, pruned, or initialized to zero. Roles are taken from names and
        shapes: two unlike layers with like names count as siblings. So weights that start at zero everywhere, adapters
        beside larger matrices, large outputs of feed-forward layers in trained networks, and what fine-tuning freezes
        in all blocks do not count, and whole blocks without a gradient (experts, heads of other tasks) are at most a
        warning. So is what differs moderately, unless the model is not halfway to a perfect score.

    Repairs
        New initial weights for this layer. By hand: look for what treats it differently (loading, initialization,
        parameter groups, hooks, masks).

    References
        Tukey, Exploratory Data Analysis, 1977 (median polish); Iglewicz and Hoaglin, How to Detect and Handle Outliers,
        1993; Glorot and Bengio, AISTATS 2010; Sun et al., Massive Activations in Large Language Models, COLM 2024.
    """

    problem = "sibling_outlier"
    code = "AT207"
    aliases = ("outlier_layer", "layer_outlier", "unlike_siblings")
    phrases = (
        "one layer is different from the others",
        "layer weights are zero",
        "one block does not train",
        "attention head is dead",
        "layer was not loaded",
    )
    needs = (
        OUTCOME_NEEDS
        | SIBLING_NEEDS
        | frozenset(
            {"weight_rms", "weight_grad_rms", "query_grad_rms", "key_grad_rms", "value_grad_rms", "projection_grad_rms"}
        )
        | frozenset(
            {
                "grad_zero_fraction",
                "update_ratio",
                "activation_spread",
                "attention_max_logit",
                "weight_norm",
                "bias_rms",
            }
        )
    )
    causes = ("nonfinite_data", "wrong_training_mode")
    repairs = ("reinitialize",)
    THRESHOLDS = thresholds(
        weight=Threshold(5, "factor in weights", "2.1 in 17 healthy trainings of small transformers", 1),
        bias=Threshold(10, "factor by which biases are larger", "as outputs", 1),
        gradient=Threshold(150, "factor by which gradients are smaller", "57 in the same trainings", 1),
        step=Threshold(10, "factor by which steps are smaller", "1.4 in the same trainings", 1),
        output=Threshold(10, "factor by which outputs vary more", "2.2 in the same trainings", 1),
        logit=Threshold(30, "factor by which attention logits are larger", "convention", 1),
        unequal=Threshold(
            30, "factor below other matrices of a block", "T5 initializes queries 8 to 11 times smaller", 1
        ),
        larger=Threshold(8, "factor above other matrices of a block", "DeepNet: queries and keys 3 times larger", 1),
        skill=Threshold(0.7, "skill from which it is no error", "Theta of AUTOTRAINER", maximum=1),
        harmless=Threshold(0.8, "skill from which the harm is small", "as in parameters_not_optimized", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        steps = history.steps
        if len(steps) < _SAMPLES or steps[-1] - steps[0] < _STEPS:
            return None
        result = outcome(history, context)
        suspects: dict[int, Suspect] = {}
        candidates = [s for stack in sibling_stacks(history) for s in self._suspects(history, context, stack, result)]
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        candidates += position_suspects(history, layers, self.threshold("larger"))
        if result.mature(_SETTLED):
            whole = sibling_stacks(history, parts=False)
            candidates += [s for stack in whole for s in self._by_layer(history, context, stack)]
        zero = {suspect.component.block for suspect in candidates if suspect.dead == ZERO}
        for suspect in candidates:
            if suspect.component.block in zero and suspect.dead != ZERO:
                continue  # a consequence
            row = suspect.component.row
            if row not in suspects or (suspects[row].dead, suspects[row].excess) < (suspect.dead, suspect.excess):
                suspects[row] = suspect
        if not suspects:
            return None
        ranked = sorted(suspects.values(), key=lambda suspect: (-suspect.dead, -suspect.excess))
        return self._judge(history, ranked, result)

    def _suspects(self, history: RunHistory, context: TaskContext, stack: Stack, result: Outcome) -> Iterator[Suspect]:
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        owned = {row for row, layer in enumerate(layers) if layer.parameters > 0 and not layer.unowned}
        frozen = {row for row, layer in enumerate(layers) if layer.frozen}
        yield from dead_suspects(history, stack, owned - frozen)
        poor = result.known and not result.learned(self.threshold("skill"))
        yield from frozen_suspects(stack, frozen, layers, everywhere=poor)
        yield from cut_suspects(history, stack)
        yield from bare_suspects(stack, layers)
        yield from self._outliers(history, stack, "weight", "weights are", self.threshold("weight"))
        yield from self._unequal(history, stack)
        yield from self._biases(history, stack)
        if result.mature(_SETTLED):
            least = self.threshold("gradient")
            yield from self._outliers(history, stack, "gradient", "gradients are", least, ends=_END_FACTOR, side=-1)

    def _biases(self, history: RunHistory, stack: Stack) -> Iterator[Suspect]:
        """Compare biases, of which only those matter that are larger than what the layer adds to them."""
        spread = last_median(history.layer("activation_spread"))
        now = last_median(history.layer("bias_rms"))
        for suspect in self._outliers(history, stack, "bias", "bias is", self.threshold("bias"), side=1):
            row = suspect.component.row
            if now[row] > _DOMINATES * spread[row]:
                yield suspect

    def _by_layer(self, history: RunHistory, context: TaskContext, stack: Stack) -> Iterator[Suspect]:
        """Compare what is measured of whole layers alone."""
        for column, name, words, side in (
            ("update_ratio", "step", "steps are", -1),
            ("activation_spread", "output", "outputs vary by", 1),
            ("attention_max_logit", "logit", "largest attention logit is", 1),
        ):
            if name == "step" and not any(each in context.optimizer.name for each in _ADAPTIVE):
                continue  # steps are as unlike as gradients
            least = self.threshold(name)
            yield from self._outliers(history, stack, column, words, least, ends=_END_FACTOR, side=side)

    def _outliers(
        self,
        history: RunHistory,
        stack: Stack,
        column: str,
        words: str,
        ratio: float,
        *,
        ends: float = 1.0,
        side: int = 0,
    ) -> Iterator[Suspect]:
        if len(stack.blocks) < _FEW and column != "weight":
            return  # two blocks may differ by anything but their initial weights

        pretrained = column == "activation_spread" and is_pretrained([history.layers[c.row] for c in stack.components])
        from_zero = _from_zero(history, stack) if column == "weight" else frozenset()

        def choose(component: Component) -> bool:
            if column == "gradient" and component.kind in ("query", "key"):
                return False  # small by nature: they pass a softmax
            if component.role in from_zero or (pretrained and component.kind in _FEED_FORWARD):
                return False  # massive activations of single blocks are usual in large trained networks
            return history.layers[component.row].kind not in ("norm", "activation")

        for outlier in lasting_outliers(history, stack, column, ratio, ends=ends, side=side, choose=choose):
            yield outlier_suspect(outlier, words, ratio)

    def _unequal(self, history: RunHistory, stack: Stack) -> Iterator[Suspect]:
        """Compare the matrices of blocks with each other: single ones of few blocks, else roles in all blocks."""
        components = full_rank(history.layers, [c for c in stack.components if c.kind in _MATRICES])
        values = {c: geometric_mean(series_of(history, c, "weight")[-_SAMPLES:, None])[0] for c in components}
        starts = {c: float(series_of(history, c, "weight")[0]) for c in components}
        values = {c: float(v) for c, v in values.items() if np.isfinite(v) and v > 0 and starts[c] * _GROWN >= v}
        yield from self._compared(stack, values, "weights are")
        if history.steps[0] == 0 and is_pretrained([history.layers[c.row] for c in stack.components]):
            starts = {c: v for c, v in starts.items() if np.isfinite(v) and v > 0}
            for suspect in self._compared(stack, starts, "weights at the start were"):
                yield replace(suspect, excess=max(suspect.excess, CERTAIN))  # no drift, and no zeros to start from

    def _compared(self, stack: Stack, values: Mapping[Component, float], words: str) -> Iterator[Suspect]:
        """Compare sizes of matrices; by role, if there are enough blocks."""
        groups: dict[str, list[Component]] = {}
        for component in values:
            role = component.role if len(stack.blocks) >= _FEW else f"{component.role} {component.block}"
            groups.setdefault(role, []).append(component)
        if len(groups) < _MIN_MATRICES:
            return
        sizes = {role: float(np.median([values[c] for c in members])) for role, members in groups.items()}
        for role, members in groups.items():
            usual = float(np.median([size for other, size in sizes.items() if other != role]))
            limit = self.threshold("larger" if sizes[role] > usual else "unequal")
            if abs(math.log(sizes[role]) - math.log(usual)) < math.log(limit):
                continue
            for component in members:
                outlier = Outlier(component, values[component], usual, values[component] / usual)
                yield outlier_suspect(outlier, words, limit, siblings="the other matrices of its block")

    def _judge(self, history: RunHistory, ranked: list[Suspect], result: Outcome) -> Finding:
        worst = ranked[0]
        poor = result.known and not result.learned(self.threshold("harmless" if worst.dead else "skill"))
        ripe = result.mature(0.1)
        if worst.excess <= 1:
            ripe = result.mature(0.5) and not (result.moving(0.2) or result.learned(0.5)) and worst.excess >= 0
        severity = result.worst if poor and ripe else Severity.WARNING
        shown = "; ".join(f"{suspect.text}" for suspect in ranked[:_SHOWN])
        more = f"; and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
        words = f"; {result.words}" if severity is Severity.ERROR and result.words else ""
        confidence = 0.9 if worst.dead else 0.8 if severity is Severity.ERROR else 0.6
        layers = tuple(dict.fromkeys(history.layers[suspect.component.row].name for suspect in ranked))
        evidence = worst.evidence | {"components": float(len(ranked))}
        message = f"{shown[0].upper()}{shown[1:]}{more}{words}."
        return self.finding(severity, confidence, message, evidence, layers=layers)


def _from_zero(history: RunHistory, stack: Stack) -> frozenset[str]:
    """Return the roles whose weights are zero, or almost, at the start: their size is what the steps add up to."""
    roles = []
    for role, line in zip(stack.roles, stack.table, strict=True):
        series = [series_of(history, component, "weight") for component in line if component is not None]
        grown = [values[-1] >= _FROM_ZERO * values[0] for values in series if values[-1] > 0]
        if sum(grown) > len(series) / 2:
            roles.append(role)
    return frozenset(roles)
