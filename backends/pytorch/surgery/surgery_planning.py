"""What can be edited in a model: which places an edit of layers means, and what forbids it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autotrainer.backends.pytorch.layers.modules import make_activation
from autotrainer.backends.pytorch.model.describe import own_parameters
from autotrainer.backends.pytorch.model.module_paths import ModulePaths
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, Site
from autotrainer.edits import AddDropout, Edit, InsertNormalization, Reinitialize, SetOutputActivation, SwapActivation

__all__ = ["SurgeryPlanner", "Target", "outcome"]

_TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_HOMOGENEOUS = ("linear", "relu", "leaky_relu", "prelu")
"""Activations with f(c x) = c f(x) for c >= 0: dropout before and after them is the same."""


@dataclass(slots=True)
class Target:
    """One place that an edit of layers changes: an activation, or layers whose weights it draws anew."""

    name: str
    layers: tuple[str, ...]
    activation: bool = True
    numbers: tuple[int, ...] = ()


class SurgeryPlanner:
    """Knows what can be edited in one model.

    Args:
        model: The model.
        anatomy: Where its activations are, as it was before any edit.
        keep: Layer-name patterns that nothing may touch.
        class_axis: Axis of the classes in the output, for a softmax.
    """

    def __init__(
        self, model: nn.Module, anatomy: ActivationGraph, keep: Sequence[str] = (), class_axis: int = -1
    ) -> None:
        self._places = ModulePaths(model, keep)
        self._anatomy = anatomy
        self._class_axis = class_axis
        self._sites: dict[str, Site] = {}
        for site in anatomy.sites:  # a module that is called in several places is one target
            known = self._sites.get(site.name, site)
            feeders = tuple(dict.fromkeys((*known.feeders, *site.feeders)))
            self._sites[site.name] = replace(site, feeders=feeders, output=known.output or site.output)
        self._infos = {info.name: info for info in anatomy.layers}

    @property
    def model(self) -> nn.Module:
        """The model with the edits applied so far."""
        return self._places.model

    @property
    def anatomy(self) -> ActivationGraph:
        """Where the model's activations were before any edit."""
        return self._anatomy

    # -- what can be done -----------------------------------------------------------------------------------------

    def plan(self, edit: Edit) -> tuple[tuple[Edit, ...], str]:
        """Return an edit as it can be applied to this model, and why not where it can't.

        Returns:
            The edit with the layers that it really touches (two edits where these need different ones), and an
            empty text; or no edit and the reason.
        """
        if isinstance(edit, SwapActivation):
            return self._plan_swap(edit)
        if isinstance(edit, Reinitialize):
            names, reasons = self._sorted(edit.layers, self._redraw_refusal)
            return outcome(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, InsertNormalization):
            return self._plan_normalization(edit)
        if isinstance(edit, AddDropout):
            if not 0 < edit.rate < 1:
                return (), f"a dropout rate must be in (0, 1), not {edit.rate!r}"
            names, reasons = self._sorted(map(self._dropout_place, edit.layers), self._dropout_refusal)
            return outcome(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, SetOutputActivation):
            reason = self._output_refusal(edit)
            return ((), reason) if reason else ((edit,), "")
        return (edit,), ""

    # -- weights and activations --------------------------------------------------------------------------------------

    def _sorted(self, names: Iterable[str], refusal: Callable[[str], str]) -> tuple[tuple[str, ...], list[str]]:
        """Return the names that are not refused, each once, and the reasons for the others."""
        good: dict[str, None] = {}
        reasons: list[str] = []
        for name in names:
            reason = refusal(name) if name in self._places else f"the model has no layer {name!r}"
            if reason:
                reasons.append(reason)
            else:
                good[name] = None
        return tuple(good), reasons

    def _redraw_refusal(self, name: str) -> str:
        if next(own_parameters(self._places.module(name)), None) is None:
            return f"`{name}` has no weights"
        return self._places.protection(name)

    def _plan_swap(self, edit: SwapActivation) -> tuple[tuple[Edit, ...], str]:
        make_activation(edit.to)
        targets, reasons = self.swap_targets(edit.layers)
        names: dict[str, None] = {}
        for target in targets:
            names.update(dict.fromkeys(target.layers))
            if target.activation:
                names[target.name] = None
        order = {info.name: place for place, info in enumerate(self._anatomy.layers)}
        ordered = tuple(sorted(names, key=lambda n: order.get(n, len(order))))
        calls = tuple(sorted({number for target in targets for number in target.numbers})) or edit.calls
        return outcome(ordered, reasons, lambda n: (replace(edit, layers=n, calls=calls),))

    def swap_targets(self, names: Sequence[str]) -> tuple[list[Target], list[str]]:
        """Return the activations behind some names, with the layers that feed them, and reasons for the rest."""
        targets: dict[str, Target] = {}
        reasons: list[str] = []
        for name in names:
            found, reason = self._swap_target(name, names)
            if found is None:
                reasons.append(reason)
                continue
            reason = next(filter(None, map(self._places.protection, (found.name, *found.layers))), "")
            if reason:
                reasons.append(reason)
            else:
                known = targets.setdefault(found.name, found)
                known.layers = tuple(dict.fromkeys((*known.layers, *found.layers)))
        return list(targets.values()), reasons

    def _swap_target(self, name: str, names: Sequence[str]) -> tuple[Target | None, str]:
        if name not in self._places:
            return None, f"the model has no layer {name!r}"
        behind = next((s.name for s in self._anatomy.sites if name in s.feeders), name)
        site = self._sites.get(name) or self._sites.get(behind)
        if site is not None:
            if site.output and not self._anatomy.guessed:
                return None, f"`{site.name}` makes the output: that is for SetOutputActivation"
            feeders = [f for f in site.feeders if f in names] if self._anatomy.guessed else site.feeders
            return Target(site.name, tuple(feeders)), ""
        if self.transformer(name) is not None:
            return Target(name, (name,)), ""
        numbers = set(self._anatomy.numbers.get(name, ())) - {self._anatomy.output_number}
        if numbers:
            feeders = tuple(sorted(n for n, other in self._anatomy.numbers.items() if numbers & set(other)))
            return Target(name, feeders, numbers=tuple(sorted(numbers))), ""
        if name in self._anatomy.functional:
            return None, f"F.{self._anatomy.functional[name]} is called inside forward behind `{name}`"
        if isinstance(self._places.module(name), nn.RNNBase | nn.RNNCellBase):
            return None, f"the gates of `{name}` keep their activations"
        if (self._anatomy.guessed or any(other in self._sites for other in names)) and next(
            own_parameters(self._places.module(name)), None
        ) is not None:
            return Target(name, (name,), activation=False), ""  # a plan names the layers beside their activations
        return None, f"no activation module follows `{name}`"

    def transformer(self, name: str) -> nn.Module | None:
        """Return the transformer layer whose feed-forward activation a layer feeds, or None."""
        parent = next(self._places.parents(name), None)
        first = self._places.path(name).endswith("linear1")
        return parent if first and isinstance(parent, _TRANSFORMERS) else None

    # -- layers put in ----------------------------------------------------------------------------------------------

    def _plan_normalization(self, edit: InsertNormalization) -> tuple[tuple[Edit, ...], str]:
        if edit.kind not in ("batch", "layer", "group"):
            return (), f"there is no normalization {edit.kind!r}"
        feeders = [feeder for name in edit.layers for feeder in self._before(name)]
        names, reasons = self._sorted(feeders, self._normalization_refusal)
        rows = [name for name in names if self._infos[name].kind == "dense" and self._anatomy.ranks.get(name, 2) != 2]
        rest = tuple(name for name in names if name not in rows or edit.kind == "layer")
        sequences = tuple(name for name in rows if name not in rest)

        def edits(_: tuple[str, ...]) -> tuple[Edit, ...]:
            made: list[Edit] = [replace(edit, layers=rest)] if rest else []
            return (*made, replace(edit, layers=sequences, kind="layer")) if sequences else tuple(made)

        return outcome(names, reasons, edits)

    def _before(self, name: str) -> tuple[str, ...]:
        """Return the layers that a name stands for: those that feed an activation, or itself."""
        site = self._sites.get(name)
        return site.feeders if site is not None else (name,)

    def _normalization_refusal(self, name: str) -> str:
        info = self._infos.get(name)
        if info is None or info.kind not in ("dense", "conv") or not info.units:
            return f"`{name}` is no dense or convolutional layer"
        if self._makes_output(name):
            return f"`{name}` makes the output"
        if name in self._anatomy.normalized:
            return f"`{name}` is normalized already"
        return self._places.closed_in(name) or self._places.protection(name)

    def _makes_output(self, name: str) -> bool:
        """Say whether the output is that of a layer, or that of an activation which only makes the output."""
        inside = any(name in site.feeders and not site.output for site in self._anatomy.sites)
        called = self._anatomy.functional.get(name, self._anatomy.output)
        return name in self._anatomy.output_layers and not inside and called == self._anatomy.output

    def _dropout_place(self, name: str) -> str:
        """Return the activation module behind a layer, or the name itself."""
        if name in self._sites:
            return name
        return next((site.name for site in self._anatomy.sites if name in site.feeders), name)

    def _dropout_refusal(self, name: str) -> str:
        site, info = self._sites.get(name), self._infos.get(name)
        if site is not None:
            if site.output and not self._anatomy.guessed:
                return f"`{name}` makes the output"
            return next(filter(None, map(self._places.kept, (name, *site.feeders))), "")
        if info is None or info.kind in ("recurrent", "attention", "norm", "other"):
            return f"dropout can't be put behind `{name}`"
        if self._makes_output(name):
            return f"`{name}` makes the output"
        activation = self._anatomy.functional.get(name, "linear")
        if activation not in _HOMOGENEOUS:
            return f"F.{activation} is called inside forward behind `{name}`"
        return self._places.closed_in(name) or self._places.kept(name)

    # -- the output -------------------------------------------------------------------------------------------------

    def output_site(self) -> Site | None:
        """Return the activation module that makes the output, or None."""
        return next((site for site in self._anatomy.sites if site.output), None)

    def _output_refusal(self, edit: SetOutputActivation) -> str:
        make_activation(edit.to)
        if self._anatomy.guessed:
            return "what makes the output can't be known without running the model: its forward depends on the data"
        now, site = self._anatomy.output, self.output_site()
        if now == edit.to:
            return f"the output goes through {now} already" if now != "linear" else "the output has no activation"
        makers = (*self._anatomy.output_layers, *(() if site is None else (site.name,)))
        kept = next(filter(None, map(self._places.kept, sorted(makers))), "")
        if kept:
            return kept
        if site is not None:
            uses = [s for s in self._anatomy.sites if s.name == site.name]
            return f"`{site.name}` is used inside the model too" if len(uses) > 1 else ""
        if now is None and edit.to == "linear":
            return "what the output goes through can't be known"
        if now not in (None, "linear") and self._anatomy.output_number is None:
            return f"F.{now} is called inside forward"
        return ""


def outcome(
    names: tuple[str, ...], reasons: Sequence[str], edits: Callable[[tuple[str, ...]], tuple[Edit, ...]]
) -> tuple[tuple[Edit, ...], str]:
    """Return the edits for the names that are left, or none and the reasons."""
    if names:
        return edits(names), ""
    return (), "; ".join(dict.fromkeys(reasons)) or "it names no layer"
