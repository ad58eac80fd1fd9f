"""AT208: a normalization layer that does not normalize, or whose scale or bias is far from those of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autotrainer.records.signals import NORM_COLUMNS, Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import is_pretrained
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.running_statistics import RUNNING_NEEDS, unreliable_statistics
from autotrainer.rules._shared.siblings.blocks import SIBLING_NEEDS, sibling_stacks
from autotrainer.rules._shared.siblings.normalized import READERS, input_sizes, normalizations
from autotrainer.rules._shared.siblings.roles import role_of
from autotrainer.rules._shared.trends import finite, last_median
from autotrainer.rules._shared.words import about

__all__ = ["AbnormalNormalization"]

_SAMPLES, _WINDOW = 5, 8
"""Fewest samples, and how many of the last ones must agree."""

_MOST = 0.75
"""Share of the samples of the window that must agree."""

_MIN_OTHERS = 2
"""Fewest other normalizations of equal size to compare scale and bias with."""

_LAST = 3.0
"""Factor on the tolerance for the last normalization, which sets the size of the outputs."""

_SIZED = 3.0
"""Factor by which inputs of normalized size may seem larger or smaller, as weights are not independent of them: 0.5 to
1.3 in 40 trainings of small transformers."""

_MATTERS = 0.5
"""Bias ÷ scale from which a bias changes what the next layer gets."""

_GAP = 0.7
"""Distance to the nearest of the others ÷ that to their median, on a logarithmic scale: less is the end of a trend."""

_SHOWN = 3
"""Layers that a message names."""


@dataclass(frozen=True, slots=True)
class _Fault:
    row: int
    text: str
    evidence: dict[str, float]
    certain: bool


class AbnormalNormalization(Rule):
    """A normalization layer does not give its output the spread that it should have.

    What it does
        Takes scale and bias out of the output of each normalization layer (layer, RMS, batch, group and instance
        normalization, and custom classes by name) and compares its root mean square with 1; compares scale and bias
        with those of the other normalization layers of the same size; looks for a block of a transformer that has none,
        and for transformers without any whose inputs of matrices are of another size. Where the score in validation is
        lower than in training, it checks whether the running statistics of batch normalization, which evaluations use,
        still hold much of their initial values 0 and 1, or little more than the last batch; and at the end of a run
        without any validation, whether they hold mostly initial values that are far from the inputs of the layer.

    Why it hurts
        The layers after it were built, or pretrained, for inputs of one size. If it normalizes over the wrong axis,
        uses wrong statistics, or has an epsilon above the variance of its input, they get something else, and a
        position may depend on other positions or samples.

    Evidence used
        Root mean square over the features of each position (over samples and positions of each channel in batch
        normalization): upper quartile and maximum over positions, in the last samples; root mean square of scale and
        bias. By definition, the first is 1 at any scale and bias, less what epsilon takes away, and never above. After
        n batches, of which each has the share m (``momentum`` of PyTorch, 1 − ``momentum`` of Keras), running
        statistics hold (1 − m)ⁿ of their initial values, and are as precise as the mean of (2 − m) ÷ m batches.

    Thresholds
        ``least``: size up to which epsilon dominates the variance; ``most``: size from which the output was not
        normalized over these axes; ``statistics``: factor from which running statistics do not fit; ``siblings``:
        factor of scale or bias to the median of the others; ``bias``: bias ÷ scale from which, in a network with
        attention, little but the bias is passed on; ``skill``: skill over the trivial predictor from which it
        is no error; ``initial``: share of the initial values in running statistics; ``newest``: share of the last batch
        in them; ``gap``: skill in training − in validation.

    When it is wrong
        Inputs that are nearly constant have a variance below any epsilon. A scale may be large on purpose, above all in
        the last normalization before the output, which is compared with three times the tolerance. Custom classes are
        recognized by their name (``LayerNorm``, ``RMSNorm``). Scale and bias count only if they were as far from the
        others in the first samples, and the first scale of a trained network may be small, or all those of
        its first block: their inputs are embeddings. A gap between training and validation may have other causes than
        running statistics: it is an error only if these hold more of their initial values than of all batches, and the
        gap is twice the threshold, and a warning where there was no validation. Transformers are built without any
        normalization, too: that is at most a warning, as long as the model does poorly.

    Repairs
        By hand: the axis and epsilon of the layer, its running statistics, its scale and bias (initialize to 1 and 0,
        or load them with the other weights).

    References
        Ba, Kiros and Hinton, Layer Normalization, 2016; Zhang and Sennrich, Root Mean Square Layer Normalization,
        NeurIPS 2019; Ioffe and Szegedy, ICML 2015.
    """

    problem = "abnormal_normalization"
    code = "AT208"
    aliases = ("wrong_normalization", "abnormal_norm", "layernorm", "wrong_norm")
    phrases = (
        "layer norm does not normalize",
        "layernorm wrong axis",
        "normalization output too large",
        "layer norm eps too large",
        "batch norm statistics wrong",
        "batch norm momentum",
        "worse in eval mode with batch norm",
    )
    needs = OUTCOME_NEEDS | SIBLING_NEEDS | frozenset(NORM_COLUMNS) | frozenset({"activation_spread", "weight_rms"})
    needs |= RUNNING_NEEDS
    causes = ("nonfinite_data", "abnormal_data")
    repairs = ()
    THRESHOLDS = thresholds(
        least=Threshold(0.5, "root mean square, at most", "epsilon is then three times the variance", maximum=1),
        most=Threshold(1.03, "root mean square, at least", "at most 1 by definition, but for rounding", 1),
        statistics=Threshold(5, "root mean square with running statistics, factor", "as siblings", 1),
        siblings=Threshold(5, "scale or bias ÷ median of the others", "five times its siblings'", 1),
        bias=Threshold(3, "bias ÷ scale", "a tenth of the output's variance is then left to the input", 1),
        initial=Threshold(0.1, "share of initial values in running statistics", "a tenth of the variance", maximum=1),
        newest=Threshold(0.5, "share of the last batch in them", "three batches in effect", maximum=1),
        gap=Threshold(0.1, "skill in training − in validation", "gap of `overfitting`", maximum=1),
        skill=Threshold(0.7, "skill from which it is no error", "Theta of AUTOTRAINER", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        rows = [row for row, layer in enumerate(history.layers) if layer.kind == "norm"]
        if len(history.steps) < _SAMPLES:
            return None
        faults = [*self._output(history, rows), *self._parameters(history, context, rows), *_missing(history)]
        result = outcome(history, context)
        if not faults:
            limits = {"initial": "initial", "newest": "newest", "least": "gap"}
            values = {name: self.threshold(threshold) for name, threshold in limits.items()}
            wrong = unreliable_statistics(history, context, result, **values)
            if wrong is not None:
                layers = tuple(history.layers[row].name for row in wrong.rows)
                return self.finding(wrong.severity, 0.8, wrong.message, wrong.evidence, layers=layers)
            return self._unsized(history) if result.known and not result.learned() and result.mature(0.5) else None
        names = {component.row: component.words for stack in sibling_stacks(history) for component in stack.components}
        shown = "; ".join(fault.text.format(name=_name(history, names, fault.row)) for fault in faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        severity = self._severity(result, certain=any(fault.certain for fault in faults))
        words = f"; {result.words}" if severity is Severity.ERROR and result.words else ""
        return self.finding(
            severity,
            0.85 if severity is Severity.ERROR else 0.7,
            f"{shown[0].upper()}{shown[1:]}{more}{words}.",
            faults[0].evidence | {"layers": float(len(faults))},
            layers=tuple(dict.fromkeys(history.layers[fault.row].name for fault in faults)),
        )

    def _unsized(self, history: RunHistory) -> Finding | None:
        """Return a warning if no block of a transformer has a normalization, and their inputs are not of size 1."""
        for stack in sibling_stacks(history):
            counts, sizes = normalizations(history, stack), input_sizes(history, stack)
            size = float(np.median(sizes)) if sizes else 1.0
            if not counts or any(counts) or not _apart(size, 1.0, _SIZED):
                continue
            message = (
                f"No block has a normalization, and the inputs of their matrices have a size of about {about(size)}, "
                "where normalized ones have 1."
            )
            names = tuple(dict.fromkeys(history.layers[c.row].name for c in stack.components if c.kind in READERS))
            evidence = {"normalizations": 0.0, "input_size": size, "blocks": float(len(stack.blocks))}
            return self.finding(Severity.WARNING, 0.6, message, evidence, layers=names)
        return None

    def _severity(self, result: Outcome, *, certain: bool) -> Severity:
        poor = result.known and not result.learned(self.threshold("skill"))
        ripe = result.mature(0.1) if certain else result.mature(0.5) and not result.moving(0.2)
        return result.worst if poor and ripe else Severity.WARNING

    def _output(self, history: RunHistory, rows: list[int]) -> Iterator[_Fault]:
        """Yield layers whose output was not normalized."""
        sizes, peaks = history.layer("normalized_rms"), history.layer("normalized_peak")
        wide, most = self.threshold("statistics"), self.threshold("most")
        for row in rows:
            rms, peak = (_late(values[:, row]) for values in (sizes, peaks))
            if not len(rms):
                continue
            size, largest = float(np.median(rms)), float(np.median(peak)) if len(peak) else math.nan
            own = len(peak) > 0
            evidence = {"normalized_rms": size, "normalized_peak": largest}
            if own and np.mean(peak >= most) >= _MOST:
                text = (
                    f"the {{name}} does not normalize: without scale and bias, its outputs have a size of up to "
                    f"{about(largest)} (usually {about(size)}), which can't exceed 1 (wrong axis, or changed later)"
                )
                yield _Fault(row, text, evidence, True)
            elif np.mean(rms <= (self.threshold("least") if own else 1 / wide)) >= _MOST:
                text = (
                    f"the {{name}} shrinks its input: without scale and bias, its outputs have a size of {about(size)}"
                )
                yield _Fault(
                    row, f"{text} instead of 1 (epsilon above the variance, or wrong statistics)", evidence, own
                )
            elif not own and np.mean(rms >= wide) >= _MOST:
                text = "the running statistics of the {name} do not fit: without scale and bias, its outputs have"
                yield _Fault(row, f"{text} a size of {about(size)} instead of about 1", evidence, False)

    def _parameters(self, history: RunHistory, context: TaskContext, rows: list[int]) -> Iterator[_Fault]:
        """Yield layers whose scale or bias is far from those of the others of the same size, from the start on.

        What they have learned since is no fault.
        """
        attention = any(
            layer.kind == "attention" or role_of(layer) in ("query", "key", "value") for layer in history.layers
        ) or any(component.part for stack in sibling_stacks(history) for component in stack.components)
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        stacks = sibling_stacks(history)
        blocks = {c.row: (i, c.block) for i, stack in enumerate(stacks) for c in stack.components}
        begins = {c.row for stack in stacks for c in stack.components if c.block == stack.blocks[0]}
        columns = [finite(history.layer(name)) for name in ("scale_rms", "bias_rms")]
        scales, biases = (last_median(values) for values in columns)
        first_scales, first_biases = (last_median(values[:_SAMPLES]) for values in columns)
        for row in rows:
            peers = [r for r in rows if r != row and history.layers[r].units == history.layers[row].units]
            mates = [r for r in peers if row in blocks and blocks.get(r) == blocks[row]]
            strangers = [r for r in peers if r not in mates]
            scale, others = float(scales[row]), scales[peers][np.isfinite(scales[peers])]
            if len(history.steps) >= _WINDOW and scale == 0 and (history.layer("scale_rms")[-_WINDOW:, row] == 0).all():
                text = "the scale of the {name} stays exactly zero: its output is the same for all inputs"
                yield _Fault(row, text, {"scale": 0.0}, True)
                continue
            bias, first_bias, first_scale = float(biases[row]), float(first_biases[row]), float(first_scales[row])
            least = self.threshold("bias")
            if attention and scale > 0 and bias > least * scale and first_bias > least**_GAP * first_scale:
                text = f"the bias of the {{name}} is {about(bias)}, {about(bias / scale)} times its scale"
                yield _Fault(row, text, {"bias": bias, "scale": scale}, False)
                continue
            if len(others) < _MIN_OTHERS or not scale > 0:
                continue
            limit = self.threshold("siblings") * (_LAST if row == rows[-1] else 1)
            usual = float(np.median(others))
            small = scale < usual and is_pretrained([layers[row]])
            learned = row == rows[0] and small
            apart = _apart(scale, usual, limit) and _apart(first_scale, usual, limit**_GAP) and not learned
            inside = [] if small and row in begins else [row, *mates]
            if usual > 0 and apart and (_alone(scale, others, limit) or _all_alone(scales, inside, strangers, limit)):
                text = f"the scale of the {{name}} is {about(scale)}, that of the others about {about(usual)}"
                evidence = {"scale": scale, "siblings": usual, "ratio": scale / usual}
                yield _Fault(row, text, evidence, False)
            others = biases[peers][np.isfinite(biases[peers])]
            usual = float(np.median(others)) if len(others) >= _MIN_OTHERS else math.nan
            above = bias > usual * limit and first_bias > usual * limit**_GAP
            alone = above and (_alone(bias, others, limit) or _all_alone(biases, [row, *mates], strangers, limit))
            if bias >= _MATTERS * scale and alone:
                text = f"the bias of the {{name}} is {about(bias)}, that of the others about {about(usual)}"
                yield _Fault(row, text, {"bias": bias, "siblings": usual, "scale": scale}, False)


def _missing(history: RunHistory) -> Iterator[_Fault]:
    """Yield the first layer of a block without any normalization, if all other blocks with attention have one."""
    for stack in sibling_stacks(history):
        counts = normalizations(history, stack)
        if counts.count(0) == 1:
            block, others = counts.index(0), max(counts)
            row = next(c.row for c in stack.components if c.block == stack.blocks[block])
            text = f"block {stack.blocks[block]} has no normalization, while the other blocks have up to {others} each"
            yield _Fault(row, text, {"normalizations": 0.0, "siblings": float(others)}, False)


def _late(values: Floats) -> Floats:
    values = values[-_WINDOW:]
    values = values[np.isfinite(values)]
    return values if len(values) >= _SAMPLES else values[:0]


def _apart(value: float, usual: float, limit: float) -> bool:
    return not usual / limit < value < usual * limit


def _alone(value: float, others: Floats, limit: float) -> bool:
    """Return whether a value is as far from the nearest of the others: no end of a trend over depth."""
    positive = others[others > 0]
    nearest = float(np.abs(np.log(positive / value)).min()) if len(positive) else math.inf
    return nearest > _GAP * math.log(limit)


def _all_alone(values: Floats, block: list[int], strangers: list[int], limit: float) -> bool:
    """Return whether all normalizations of a block, which one fault may have changed, are far from all others."""
    return len(block) > 1 and all(values[row] > 0 and _alone(values[row], values[strangers], limit) for row in block)


def _name(history: RunHistory, names: dict[int, str], row: int) -> str:
    return names.get(row) or f"normalization {history.layers[row].name}"
