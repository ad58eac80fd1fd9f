"""What can be changed in the structure of a model: widths, ways past layers, the output layer, attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autotrainer.backends.pytorch.layers.cosine_attention import CosineAttention
from autotrainer.backends.pytorch.layers.modules import make_activation
from autotrainer.backends.pytorch.model.describe import own_parameters, plain_name, watched_modules
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, Site
from autotrainer.backends.pytorch.surgery.resizing import followers_of, width_refusal
from autotrainer.backends.pytorch.surgery.surgery_planning import SurgeryPlanner, outcome
from autotrainer.edits import AddResidual, ClipAttention, Edit, ResizeLayers, ScaleOutputLayer
from autotrainer.errors import ConfigError

__all__ = ["StructurePlanner"]


class StructurePlanner(SurgeryPlanner):
    """Knows what can be changed in the structure of one model, besides what `SurgeryPlanner` knows.

    Args:
        model: The model.
        anatomy: Where its activations are, as it was before any edit.
        keep: Layer-name patterns that nothing may touch.
        class_axis: Axis of the classes in the output, for a softmax.
        run: Runs a model on a few samples; None where there are none.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: ActivationGraph,
        keep: Sequence[str] = (),
        class_axis: int = -1,
        run: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        super().__init__(model, anatomy, keep, class_axis)
        self.inside: dict[int, str] = {}
        """Where activations are now that were calls of a function, by the number of the call."""
        self.beside: dict[str, tuple[str, ...]] = {}
        """Where further ones are of an activation module that several layers share, by its name."""
        self._run = run
        owners = Counter(id(p) for module in watched_modules(model).values() for p in own_parameters(module))
        self._shared = {key for key, count in owners.items() if count > 1}

    def plan(self, edit: Edit) -> tuple[tuple[Edit, ...], str]:
        """Return an edit as it can be applied to this model, and why not where it can't: see `SurgeryPlanner.plan`."""
        if isinstance(edit, ResizeLayers):
            return self._plan_resize(edit)
        if isinstance(edit, AddResidual):
            names, reasons = self._sorted(edit.layers, self._residual_refusal)
            return outcome(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, ClipAttention):
            if edit.calls:  # found already, by a training that was built with it
                return (edit,), ""
            names, reasons = self._sorted(edit.layers, self._attention_refusal)
            calls = tuple(sorted({n for name in names for n in self._anatomy.attention.get(name, ())}))
            return outcome(names, reasons, lambda n: (replace(edit, layers=n, calls=calls),))
        if isinstance(edit, ScaleOutputLayer):
            names = edit.layers or self._output_layers()
            reason = self._scale_refusal(names)
            return ((), reason) if reason else ((replace(edit, layers=names),), "")
        return super().plan(edit)

    # -- widths -------------------------------------------------------------------------------------------------------

    def _plan_resize(self, edit: ResizeLayers) -> tuple[tuple[Edit, ...], str]:
        names, reasons = self._sorted(edit.layers, self._width_refusal)
        if edit.followers:  # found already, by a training that was built with it
            names, more = self._sorted((*edit.layers, *edit.followers), self._protection)
            missing = [name for name in (*edit.layers, *edit.followers) if name not in names]
            return ((), "; ".join(more)) if missing else ((edit,), "")
        if not names:
            return outcome((), reasons, lambda n: ())
        if self._run is None:
            return (), "which layers follow is not known: take the plan of a result, where they are filled in"
        found, reason = self._resized(edit.of(names))
        if found is None:  # all at once is not possible: one after the other, as far as they go
            accepted: tuple[str, ...] = ()
            for name in names:
                one, why = self._resized(edit.of((*accepted, name)))
                if one is not None:
                    found, accepted = one, (*accepted, name)
                else:
                    reasons.append(f"`{name}`: {why}")
        return ((found,), "") if found is not None else ((), "; ".join(dict.fromkeys(reasons)) or reason)

    def _resized(self, edit: ResizeLayers) -> tuple[ResizeLayers | None, str]:
        """Return an edit with the layers that follow, or None and why it is not possible."""
        assert self._run is not None
        units = {self._places.path(name): n for name, n in zip(edit.layers, edit.units, strict=True)}
        try:
            found = followers_of(self.model, units, self._run, lambda path: self._protection(plain_name(path)))
        except ConfigError as error:
            return None, str(error)
        return replace(edit, followers=tuple(map(plain_name, found)), inputs=tuple(found.values())), ""

    def _width_refusal(self, name: str) -> str:
        info = self._infos.get(name)
        if info is None or info.kind not in ("dense", "conv", "recurrent"):
            return f"`{name}` is no dense, convolutional or recurrent layer"
        if self._makes_output(name) or (self._anatomy.guessed and not info.hidden):
            return f"`{name}` makes the output"
        reason = width_refusal(self._places.module(name))
        if reason:
            return f"`{name}` can't have another width: {reason}"
        inside = self._places.closed_in(name) if self.transformer(name) is None else ""
        return inside or self._protection(name)

    def _protection(self, name: str) -> str:
        """Say why the weights of a layer must keep their shape, or return an empty text."""
        shared = name in self._places and any(id(p) in self._shared for p in own_parameters(self._places.module(name)))
        return self._places.protection(name) or (f"`{name}` shares weights with another layer" if shared else "")

    # -- ways past layers ---------------------------------------------------------------------------------------------

    def _residual_refusal(self, name: str) -> str:
        info = self._infos.get(name)
        if info is None or info.kind not in ("dense", "conv") or not _square(self._places.module(name)):
            return f"`{name}` does not have as many outputs as inputs"
        if self._makes_output(name):
            return f"`{name}` makes the output"
        if name in self._anatomy.normalized:
            return f"`{name}` is normalized"
        reason = self._places.closed_in(name) or self._places.protection(name)
        return reason or self.activation_of(name)[1]

    def activation_of(self, name: str) -> tuple[Site | int | str | None, str]:
        """Return where the activation of a layer is, and why it can't be taken with the layer.

        Returns:
            A module in a place of its own; or the number of a call; or the name of an activation that stays where it
            is besides (a ReLU that other layers share: there is nothing left for it to cut off); or None and a reason.
        """
        if self._anatomy.guessed:
            return None, "what follows a layer can't be known without running the model: its forward depends on data"
        if name in self._anatomy.joined:
            return None, f"the output of `{name}` is joined with others before its activation"
        uses = [site for site in self._anatomy.sites if name in site.feeders]
        numbers = self._anatomy.numbers.get(name, ())
        if len(uses) + len(numbers) != 1:
            called = self._anatomy.functional.get(name)
            if called is not None and not numbers:
                return None, f"F.{called} is called inside another module behind `{name}`"
            return None, f"`{name}` is used more than once" if uses or numbers else f"no activation follows `{name}`"
        if numbers:
            called = self._anatomy.functional[name]
            if sum(numbers[0] in other for other in self._anatomy.numbers.values()) > 1:
                return None, f"the output of `{name}` is joined with others before its activation"
            try:
                make_activation(called)
            except ConfigError:
                return None, f"F.{called} can't be taken with `{name}`"
            return numbers[0], ""
        site = uses[0]
        if site.feeders != (name,):
            return None, f"the output of `{name}` is joined with others before its activation"
        if sum(other.name == site.name for other in self._anatomy.sites) > 1:
            if site.activation == "relu":
                return site.activation, ""
            return None, f"`{site.name}` is shared by several layers"
        return (None, f"keep protects `{site.name}`") if self._places.kept(site.name) else (site, "")

    # -- attention ----------------------------------------------------------------------------------------------------

    def _attention_refusal(self, name: str) -> str:
        module = self._places.module(name)
        if isinstance(module, nn.MultiheadAttention):
            if isinstance(module, CosineAttention):
                return f"`{name}` is bounded already"
            if type(module).forward is not nn.MultiheadAttention.forward:
                return f"`{name}` computes attention in code of its own"
            if module.bias_k is not None:
                return f"`{name}` has keys of its own"
        elif name not in self._anatomy.attention:
            return f"`{name}` is no attention layer, and makes no queries of scaled_dot_product_attention"
        return self._places.protection(name)

    # -- the output layer ---------------------------------------------------------------------------------------------

    def _output_layers(self) -> tuple[str, ...]:
        return tuple(info.name for info in self._anatomy.layers if info.name in self._anatomy.output_layers)

    def _scale_refusal(self, names: tuple[str, ...]) -> str:
        if not names or any(n not in self._infos or self._infos[n].kind not in ("dense", "conv") for n in names):
            return "the output is not made by dense or convolutional layers alone"
        normalized = [name for name in names if name in self._anatomy.normalized]
        if normalized:
            return f"a normalization behind `{normalized[0]}` undoes any scale"
        return next(filter(None, map(self._protection, names)), "")


def _square(module: nn.Module) -> bool:
    """Say whether a layer puts out what it takes in, in shape."""
    if isinstance(module, nn.Linear):
        return module.in_features == module.out_features
    if not isinstance(module, nn.modules.conv._ConvNd) or module.transposed:
        return False
    same = module.padding == "same" or (
        not isinstance(module.padding, str)
        and all(
            2 * p == d * (k - 1) for p, d, k in zip(module.padding, module.dilation, module.kernel_size, strict=True)
        )
    )
    return same and module.in_channels == module.out_channels and set(module.stride) == {1}
