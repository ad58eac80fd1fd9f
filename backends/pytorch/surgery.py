"""Edits of models: activations, weights, and layers put in, by the names of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from autotrainer.backends.pytorch.anatomy import Anatomy, Site
from autotrainer.backends.pytorch.describe import own_parameters
from autotrainer.backends.pytorch.modules import (
    InputNoise,
    InputScaling,
    OutputActivation,
    Wrapper,
    make_activation,
)
from autotrainer.backends.pytorch.optimizers import adopt_parameters, edit_optimizer
from autotrainer.backends.pytorch.places import Places
from autotrainer.backends.pytorch.redraw import redraw, scheme_for
from autotrainer.backends.pytorch.rerouting import Rerouted
from autotrainer.edits import (
    AddDropout,
    AddInputNoise,
    Edit,
    InsertNormalization,
    Reinitialize,
    ScaleInputs,
    SetOutputActivation,
    SwapActivation,
)
from autotrainer.errors import ConfigError

__all__ = ["Surgeon", "apply_edits"]

_TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_HOMOGENEOUS = ("linear", "relu", "leaky_relu", "prelu")
"""Activations with f(c x) = c f(x) for c >= 0: dropout before and after them is the same."""


@dataclass(slots=True)
class _Target:
    """One place that an edit of layers changes: an activation, or layers whose weights it draws anew."""

    name: str
    layers: tuple[str, ...]
    activation: bool = True
    number: int | None = None


class Surgeon:
    """Applies edits to one model. Parameters that stay keep their identity, so optimizers over them stay valid.

    Args:
        model: The model; changed in place where that is possible.
        anatomy: Where its activations are, as it was before any edit.
        keep: Layer-name patterns that nothing may touch.
        class_axis: Axis of the classes in the output, for a softmax.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, keep: Sequence[str] = (), class_axis: int = -1) -> None:
        self._places = Places(model, keep)
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
            return _outcome(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, InsertNormalization):
            return self._plan_normalization(edit)
        if isinstance(edit, AddDropout):
            if not 0 < edit.rate < 1:
                return (), f"a dropout rate must be in (0, 1), not {edit.rate!r}"
            names, reasons = self._sorted(map(self._dropout_place, edit.layers), self._dropout_refusal)
            return _outcome(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, SetOutputActivation):
            reason = self._output_refusal(edit)
            return ((), reason) if reason else ((edit,), "")
        return (edit,), ""

    def apply(self, edit: Edit) -> None:
        """Apply an edit that `plan` returned; edits that are not about models do nothing.

        Raises:
            ConfigError: If it does not fit after all.
        """
        if isinstance(edit, SwapActivation):
            for target in self._swap_targets(edit.layers)[0]:
                if target.number is not None:
                    self._reroute(target.number, self._anatomy.functional[target.name], make_activation(edit.to))
                elif target.activation:
                    self._replace_activation(target.name, edit.to)
                for name in target.layers if edit.reinitialize else ():
                    redraw(self._places.module(name), scheme_for(edit.to))
        elif isinstance(edit, Reinitialize):
            for name in edit.layers:
                redraw(self._places.module(name), edit.scheme)
        elif isinstance(edit, InsertNormalization):
            for name in edit.layers:
                self._places.follow(name, _normalization(self._places.module(name), edit.kind))
        elif isinstance(edit, AddDropout):
            for name in edit.layers:
                selu = isinstance(self._places.module(name), nn.SELU)
                self._places.follow(name, nn.AlphaDropout(edit.rate) if selu else nn.Dropout(edit.rate))
        elif isinstance(edit, SetOutputActivation):
            self._set_output(edit)
        elif isinstance(edit, ScaleInputs):
            self._wrap(InputScaling(self.model, edit.mean, edit.std))
        elif isinstance(edit, AddInputNoise):
            self._wrap(InputNoise(self.model, edit.std))

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
        targets, reasons = self._swap_targets(edit.layers)
        names: dict[str, None] = {}
        for target in targets:
            names.update(dict.fromkeys(target.layers))
            if target.activation:
                names[target.name] = None
        order = {info.name: place for place, info in enumerate(self._anatomy.layers)}
        ordered = tuple(sorted(names, key=lambda n: order.get(n, len(order))))
        return _outcome(ordered, reasons, lambda n: (replace(edit, layers=n),))

    def _swap_targets(self, names: Sequence[str]) -> tuple[list[_Target], list[str]]:
        """Return the activations behind some names, with the layers that feed them, and reasons for the rest."""
        targets: dict[str, _Target] = {}
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

    def _swap_target(self, name: str, names: Sequence[str]) -> tuple[_Target | None, str]:
        if name not in self._places:
            return None, f"the model has no layer {name!r}"
        behind = next((s.name for s in self._anatomy.sites if name in s.feeders), name)
        site = self._sites.get(name) or self._sites.get(behind)
        if site is not None:
            if site.output:
                return None, f"`{site.name}` makes the output: that is for SetOutputActivation"
            return _Target(site.name, site.feeders), ""
        if self._transformer(name) is not None:
            return _Target(name, (name,)), ""
        number = self._anatomy.numbers.get(name)
        if number is not None and number != self._anatomy.output_number:
            feeders = tuple(sorted(n for n, other in self._anatomy.numbers.items() if other == number))
            return _Target(feeders[0], feeders, number=number), ""
        if name in self._anatomy.functional:
            return None, f"F.{self._anatomy.functional[name]} is called inside forward behind `{name}`"
        if isinstance(self._places.module(name), nn.RNNBase | nn.RNNCellBase):
            return None, f"the gates of `{name}` keep their activations"
        if (
            any(other in self._sites for other in names)
            and next(own_parameters(self._places.module(name)), None) is not None
        ):
            return _Target(name, (name,), activation=False), ""  # a plan names the layers beside their activations
        return None, f"no activation module follows `{name}`"

    def _transformer(self, name: str) -> nn.Module | None:
        """Return the transformer layer whose feed-forward activation a layer feeds, or None."""
        parent = next(self._places.parents(name), None)
        first = self._places.path(name).endswith("linear1")
        return parent if first and isinstance(parent, _TRANSFORMERS) else None

    def _replace_activation(self, name: str, to: str) -> None:
        path = self._places.path(name)
        parent = self._transformer(name)
        if parent is not None:
            known: dict[str, Any] = {"relu": F.relu, "gelu": F.gelu}
            parent.__dict__.pop("activation", None)
            parent._modules.pop("activation", None)
            parent.activation = known.get(to) or make_activation(to)
            if isinstance(parent, nn.TransformerEncoderLayer):
                parent.activation_relu_or_gelu = {"relu": 1, "gelu": 2}.get(to, 0)
            return
        self._places.put(path, make_activation(to))

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

        return _outcome(names, reasons, edits)

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
            if site.output:
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

    def _output_site(self) -> Site | None:
        return next((site for site in self._anatomy.sites if site.output), None)

    def _output_refusal(self, edit: SetOutputActivation) -> str:
        make_activation(edit.to)
        now, site = self._anatomy.output, self._output_site()
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

    def _set_output(self, edit: SetOutputActivation) -> None:
        site = self._output_site()
        activation = make_activation(edit.to, axis=self._class_axis)
        if site is not None:
            self._places.put(self._places.path(site.name), activation)
        elif self._anatomy.output_number is not None:
            self._reroute(self._anatomy.output_number, str(self._anatomy.output), activation)
        elif edit.to != "linear":
            self._wrap(OutputActivation(self.model, activation))

    def _reroute(self, number: int, activation: str, instead: nn.Module) -> None:
        """Replace an activation that is called as a function inside ``forward``."""
        inner = self.model
        while isinstance(inner, Wrapper) and not isinstance(inner, Rerouted):
            inner = inner.module
        if not isinstance(inner, Rerouted):
            self._wrap(Rerouted(self.model))
            inner = self.model
        assert isinstance(inner, Rerouted)
        inner.reroute(number, activation, instead)

    def _wrap(self, wrapper: nn.Module) -> None:
        """Put the whole model into a wrapper."""
        device = next((p.device for p in self.model.parameters()), None)
        wrapper._buffers.update({k: b.to(device) for k, b in wrapper._buffers.items() if b is not None})
        wrapper.training = self.model.training
        self._places.put("", wrapper)


def apply_edits(edits: Sequence[Edit], model: nn.Module, optimizer: Optimizer | None) -> tuple[nn.Module, Any]:
    """Apply the edits of a plan to a fresh model and the optimizer over its parameters.

    Edits that belong to the loop (loss, batch size, clipping, schedule, early stopping) do nothing here.

    Args:
        edits: The edits, with fitted numbers filled in.
        model: The fresh model; not to be used further.
        optimizer: The optimizer over its parameters; changed; or None.

    Returns:
        The changed model and optimizer.

    Raises:
        ConfigError: If an edit can't be applied to this model or optimizer.
    """
    before = list(model.parameters())
    surgeon = Surgeon(model, Anatomy.of(model))
    for edit in edits:
        if isinstance(edit, ScaleInputs) and not edit.mean:
            raise ConfigError("ScaleInputs has no numbers: take the plan of a result, where they are filled in")
        planned, reason = surgeon.plan(edit)
        if reason:
            raise ConfigError(f"{type(edit).__name__} can't be applied to this model: {reason}")
        for one in planned:
            surgeon.apply(one)
    model = surgeon.model
    if optimizer is not None:
        adopt_parameters(optimizer, model, before)
        return model, edit_optimizer(optimizer, model, edits)
    return model, optimizer


def _outcome(
    names: tuple[str, ...], reasons: Sequence[str], edits: Callable[[tuple[str, ...]], tuple[Edit, ...]]
) -> tuple[tuple[Edit, ...], str]:
    if names:
        return edits(names), ""
    return (), "; ".join(dict.fromkeys(reasons)) or "it names no layer"


def _normalization(layer: nn.Module, kind: str) -> nn.Module:
    """Return the normalization for the output of a dense or convolutional layer."""
    if isinstance(layer, nn.Linear):
        if kind == "group":
            return nn.GroupNorm(_groups(layer.out_features), layer.out_features)
        return nn.LayerNorm(layer.out_features) if kind == "layer" else nn.BatchNorm1d(layer.out_features)
    channels, dimensions = int(layer.out_channels), len(layer.kernel_size)  # type: ignore[arg-type]
    if kind != "batch":
        return nn.GroupNorm(1 if kind == "layer" else _groups(channels), channels)
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1](channels)


def _groups(channels: int) -> int:
    """Return the largest number of groups up to 8 that divides the channels."""
    return next(groups for groups in range(8, 0, -1) if channels % groups == 0)
