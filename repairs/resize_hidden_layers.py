"""Give hidden layers more units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from autotrainer.edits import ResizeLayers
from autotrainer.records.signals import LayerInfo
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ResizeHiddenLayersRepair"]

_RESIZABLE = ("dense", "conv", "recurrent")
_FACTOR = 4
"""Factor on the units of all layers: two doublings."""
_REFINED = 0.3
"""Probability that twice as many units are better for a training that works."""
_MIN_UNITS = 16
"""Smallest number of units that a layer gets, and up to which layers count as small. With symmetric initial weights,
all n ReLU units of a layer are zero for an input with probability 2⁻ⁿ (Lu et al. 2019): with 16, for one in 65,536."""


class ResizeHiddenLayersRepair(Repair):
    """Give hidden layers more units, features or channels.

    What it does:
        A bottleneck layer gets as many units as the widest other hidden layer, at least 16; or all hidden layers get
        four times as many. The layers that follow (normalization, recurrent layers, a flattened image) take the new
        width. The weights of all these layers are reinitialized. Layers whose width is tied to others, by a sum or a
        fixed shape, are left unchanged. With ``until="budget"``, twice the units in a training that works.

    Why it helps:
        A single unit passes on a single number, so that later layers can't distinguish more. Wide layers are also
        easier to train, and less likely to be dead as a whole.

    Safety:
        Unsafe: the architecture changes, what the resized layers have learned is lost, and a wider model may overfit.
        Judged by outcome.

    Cost:
        Grows with the product of the widths of neighbouring layers: about 16 times the work for hidden layers that
        become four times as wide, and more memory accordingly.

    References:
        Goodfellow et al., Deep Learning, 2016, section 5.2; Lu et al. 2019 (1903.06733) on width and dead layers;
        Neyshabur et al. 2019 (1805.12076) on over-parametrization.
    """

    name = "resize_hidden_layers"
    fixes: ClassVar[dict[str, float]] = {
        "insufficient_capacity": 0.7,
        "not_learning": 0.15,
        "worse_than_simple_model": 0.15,
        "dying_relu": 0.15,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose more units for the named layers, then for all."""
        hidden = [layer for layer in context.layers if layer.hidden and layer.kind in _RESIZABLE and layer.units]
        free = [layer for layer in hidden if not layer.frozen]
        effect = self.fixes[finding.problem]
        if finding.problem == "insufficient_capacity":
            named = [layer for layer in free if layer.name in finding.layers]
            if not named:  # the cause is another one: dropout, weight decay, no activation
                return
            others = [layer.units or 0 for layer in hidden if layer not in named]
            width = max(_MIN_UNITS, *others) if others else _MIN_UNITS
            yield self._wider(context, {layer.name: width for layer in named}, effect)
        elif not free or max(layer.units or 0 for layer in hidden) > _MIN_UNITS:
            return
        units = {layer.name: max(_MIN_UNITS, _FACTOR * (layer.units or 1)) for layer in free}
        yield self._wider(context, units, 0.6 * effect if finding.problem == "insufficient_capacity" else effect)

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        """Propose twice as many units in all hidden layers."""
        free = [layer for layer in context.layers if layer.hidden and layer.kind in _RESIZABLE and layer.units]
        units = {layer.name: 2 * (layer.units or 1) for layer in free if not layer.frozen}
        if units:
            yield self._wider(context, units, _REFINED)

    def _wider(self, context: TaskContext, units: Mapping[str, int], effect: float) -> Proposal:
        edit = ResizeLayers(tuple(units), tuple(units.values()))
        return Proposal(self.name, (edit,), effect, cost=_cost(context.layers, units))


def _cost(layers: Iterable[LayerInfo], units: Mapping[str, int]) -> float:
    """Return the work with other widths ÷ that without, as if each layer took the outputs of the previous one."""
    before = after = 0.0
    grown = 1.0
    for layer in layers:
        if not layer.parameters or layer.kind == "norm":
            continue
        factor = units.get(layer.name, layer.units or 1) / (layer.units or 1)
        before += layer.parameters
        after += layer.parameters * grown * factor
        grown = factor
    return after / before if before else 1.0
