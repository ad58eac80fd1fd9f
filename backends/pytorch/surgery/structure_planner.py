"""Plans edits of the structure of a model: widths, residual connections, the output layer, attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autotrainer.backends.pytorch.layers.cosine_attention import CosineAttention
from autotrainer.backends.pytorch.layers.modules import make_activation
from autotrainer.backends.pytorch.model.describe import direct_parameters, plain_name, watched_modules
from autotrainer.backends.pytorch.runtime.torch_private import Conv
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, ActivationNode
from autotrainer.backends.pytorch.surgery.edit_planner import EditPlanner, plan_result
from autotrainer.backends.pytorch.surgery.resizing import followers_of, width_refusal
from autotrainer.edits import AddResidual, ClipAttention, Edit, ResizeLayers, ResizeOutputLayer, ScaleOutputLayer
from autotrainer.errors import ConfigError

__all__ = ["StructurePlanner"]


class StructurePlanner(EditPlanner):
    """Plans edits of the structure of one model, besides those of `EditPlanner`.

    Args:
        model: The model.
        activation_graph: Its activations before any edit.
        keep: Patterns of layer names that must not be touched.
        class_axis: Axis of the classes in the output, for a softmax.
        run: Runs a model on a few samples; None if there are none.
    """

    def __init__(
        self,
        model: nn.Module,
        activation_graph: ActivationGraph,
        keep: Sequence[str] = (),
        class_axis: int = -1,
        run: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        super().__init__(model, activation_graph, keep, class_axis)
        self.relocated_calls: dict[int, str] = {}
        """Layer names of modules that have replaced function calls, by the number of the call."""
        self.duplicated_nodes: dict[str, tuple[str, ...]] = {}
        """Layer names of copies of an activation module that several layers share, by the name of the module."""
        self._run = run
        owners = Counter(id(p) for module in watched_modules(model).values() for p in direct_parameters(module))
        self._shared = {key for key, count in owners.items() if count > 1}

    def plan(self, edit: Edit) -> tuple[tuple[Edit, ...], str]:
        """Return an edit as it can be applied to this model, or why it can't be: see `EditPlanner.plan`."""
        if isinstance(edit, ResizeLayers):
            return self._plan_resize(edit)
        if isinstance(edit, ResizeOutputLayer):
            return self._plan_output_resize(edit)
        if isinstance(edit, AddResidual):
            names, reasons = self._partition(edit.layers, self._residual_refusal)
            return plan_result(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, ClipAttention):
            if edit.calls:  # filled in by a training with this edit
                return (edit,), ""
            names, reasons = self._partition(edit.layers, self._attention_refusal)
            calls = tuple(sorted({n for name in names for n in self._graph.attention_calls.get(name, ())}))
            return plan_result(names, reasons, lambda n: (replace(edit, layers=n, calls=calls),))
        if isinstance(edit, ScaleOutputLayer):
            names = edit.layers or self._output_layers()
            reason = self._scale_refusal(names)
            return ((), reason) if reason else ((replace(edit, layers=names),), "")
        return super().plan(edit)

    # -- widths -------------------------------------------------------------------------------------------------------

    def _plan_resize(self, edit: ResizeLayers) -> tuple[tuple[Edit, ...], str]:
        names, reasons = self._partition(edit.layers, self._width_refusal)
        if edit.followers:  # filled in by a training with this edit
            _, reasons = self._partition(edit.layers, lambda name: self._resize_refusal(name) or self._protection(name))
            reasons += self._partition(edit.followers, self._protection)[1]
            return ((), "; ".join(reasons)) if reasons else ((edit,), "")
        if not names:
            return plan_result((), reasons, lambda n: ())
        if self._run is None:
            return (), "the layers that must follow are unknown: take the plan of a result, where they are filled in"
        resized, reason = self._resized(edit.of(names))
        if resized is None:  # not all at once: add one after the other, as far as possible
            accepted: tuple[str, ...] = ()
            for name in names:
                extended, refused = self._resized(edit.of((*accepted, name)))
                if extended is not None:
                    resized, accepted = extended, (*accepted, name)
                else:
                    reasons.append(f"`{name}`: {refused}")
        return ((resized,), "") if resized is not None else ((), "; ".join(dict.fromkeys(reasons)) or reason)

    def _resized(self, edit: ResizeLayers) -> tuple[ResizeLayers | None, str]:
        """Return the edit with the layers that follow, or None and the reason."""
        assert self._run is not None
        units = {self._module_paths.path(name): n for name, n in zip(edit.layers, edit.units, strict=True)}
        try:
            followers = followers_of(self.model, units, self._run, lambda path: self._protection(plain_name(path)))
        except ConfigError as error:
            return None, str(error)
        return replace(edit, followers=tuple(map(plain_name, followers)), inputs=tuple(followers.values())), ""

    def _width_refusal(self, name: str) -> str:
        info = self._infos.get(name)
        if info is None or info.kind not in ("dense", "conv", "recurrent"):
            return f"`{name}` is not a dense, convolutional or recurrent layer"
        if self._makes_output(name) or (self._graph.guessed and not info.hidden):
            return f"`{name}` makes the output"
        reason = self._resize_refusal(name)
        if reason:
            return reason
        closed = self._module_paths.closed_reason(name) if self.transformer_of(name) is None else ""
        return closed or self._protection(name)

    def _resize_refusal(self, name: str) -> str:
        reason = width_refusal(self._module_paths.module(name))
        return f"`{name}` can't have another width: {reason}" if reason else ""

    def _protection(self, name: str) -> str:
        """Return why the weights of a layer must keep their shape, or an empty string."""
        shared = name in self._module_paths and any(
            id(p) in self._shared for p in direct_parameters(self._module_paths.module(name))
        )
        return self._module_paths.protection(name) or (f"`{name}` shares weights with another layer" if shared else "")

    # -- residual connections -----------------------------------------------------------------------------------------

    def _residual_refusal(self, name: str) -> str:
        info = self._infos.get(name)
        if info is None or info.kind not in ("dense", "conv") or not _square(self._module_paths.module(name)):
            return f"`{name}` does not have as many outputs as inputs"
        if self._makes_output(name):
            return f"`{name}` makes the output"
        if name in self._graph.normalized:
            return f"`{name}` is normalized"
        reason = self._module_paths.closed_reason(name) or self._module_paths.protection(name)
        return reason or self.activation_of(name)[1]

    def activation_of(self, name: str) -> tuple[ActivationNode | int | str | None, str]:
        """Return the activation of a layer, and why it can't be moved into a residual block with the layer.

        Returns:
            A module that only this layer uses; or the number of a function call; or the name of an activation that is
            duplicated (a ReLU shared with other layers: applied twice it changes nothing); or None and the reason.
        """
        if self._graph.guessed:
            return None, "what follows a layer is unknown without running the model: its forward depends on the data"
        if name in self._graph.summed:
            return None, f"the output of `{name}` is summed with others before its activation"
        uses = [node for node in self._graph.nodes if name in node.feeders]
        call_numbers = self._graph.call_numbers.get(name, ())
        if len(uses) + len(call_numbers) != 1:
            function = self._graph.functional.get(name)
            if function is not None and not call_numbers:
                return None, f"F.{function} is called inside another module behind `{name}`"
            return (
                None,
                f"`{name}` is used more than once" if uses or call_numbers else f"no activation follows `{name}`",
            )
        if call_numbers:
            function = self._graph.functional[name]
            if sum(call_numbers[0] in other for other in self._graph.call_numbers.values()) > 1:
                return None, f"the output of `{name}` is summed with others before its activation"
            try:
                make_activation(function)
            except ConfigError:
                return None, f"F.{function} can't be moved with `{name}`"
            return call_numbers[0], ""
        node = uses[0]
        if node.feeders != (name,):
            return None, f"the output of `{name}` is summed with others before its activation"
        if sum(other.name == node.name for other in self._graph.nodes) > 1:
            if node.activation == "relu":
                return node.activation, ""
            return None, f"`{node.name}` is shared by several layers"
        return (None, f"keep protects `{node.name}`") if self._module_paths.kept_reason(node.name) else (node, "")

    # -- attention ----------------------------------------------------------------------------------------------------

    def _attention_refusal(self, name: str) -> str:
        module = self._module_paths.module(name)
        if isinstance(module, nn.MultiheadAttention):
            if isinstance(module, CosineAttention):
                return f"`{name}` is bounded already"
            if type(module).forward is not nn.MultiheadAttention.forward:
                return f"`{name}` has a custom forward"
            if module.bias_k is not None:
                return f"`{name}` has a learned key (add_bias_kv)"
        elif name not in self._graph.attention_calls:
            return f"`{name}` is not an attention layer, and makes no queries for scaled_dot_product_attention"
        return self._module_paths.protection(name)

    # -- the output layer ---------------------------------------------------------------------------------------------

    def _plan_output_resize(self, edit: ResizeOutputLayer) -> tuple[tuple[Edit, ...], str]:
        names = edit.layers or self._output_layers()
        reason = self._output_resize_refusal(names, edit.units)
        _, protected = self._partition(edit.followers, self._protection)
        if reason or protected:
            return (), reason or protected[0]
        if self._run is None:
            return (replace(edit, layers=names),), ""  # a plan of a result, where the followers are filled in
        axis = self._class_axis

        def fits(before: Any, after: Any) -> bool:
            if not (isinstance(before, tuple) and isinstance(after, tuple) and len(before) and len(after)):
                return False
            if len(before) == 1 or len(after) == 1:  # a single unit may be squeezed away
                return before[0] == after[0] and after[1:] in ((edit.units,), () if edit.units == 1 else (edit.units,))
            along = axis % len(before)
            return after == (*before[:along], edit.units, *before[along + 1 :])

        units = {self._module_paths.path(names[0]): edit.units}
        try:
            followers = followers_of(
                self.model, units, self._run, lambda path: self._protection(plain_name(path)), fits
            )
        except ConfigError as error:
            return (), str(error)
        planned = replace(
            edit, layers=names, followers=tuple(map(plain_name, followers)), inputs=tuple(followers.values())
        )
        return (planned,), ""

    def _output_resize_refusal(self, names: tuple[str, ...], units: int) -> str:
        if len(names) != 1 or names[0] not in self._infos or self._infos[names[0]].kind not in ("dense", "conv"):
            return "the output is not made by a single dense or convolutional layer"
        name = names[0]
        if not self._makes_output(name) and not (self._graph.guessed and self._run is None):
            return f"`{name}` does not make the output alone"
        if self._infos[name].units == units:
            return f"the output layer `{name}` has {units} units already"
        return self._resize_refusal(name) or self._protection(name)

    def _output_layers(self) -> tuple[str, ...]:
        return tuple(info.name for info in self._graph.layers if info.name in self._graph.output_layers)

    def _scale_refusal(self, names: tuple[str, ...]) -> str:
        if not names or any(n not in self._infos or self._infos[n].kind not in ("dense", "conv") for n in names):
            return "the output is not made by dense or convolutional layers alone"
        normalized = [name for name in names if name in self._graph.normalized]
        if normalized:
            return f"a normalization behind `{normalized[0]}` undoes any scale"
        return next(filter(None, map(self._protection, names)), "")


def _square(module: nn.Module) -> bool:
    """Return whether a layer's output has the shape of its input."""
    if isinstance(module, nn.Linear):
        return module.in_features == module.out_features
    if not isinstance(module, Conv) or module.transposed:
        return False
    same = module.padding == "same" or (
        not isinstance(module.padding, str)
        and all(
            2 * p == d * (k - 1) for p, d, k in zip(module.padding, module.dilation, module.kernel_size, strict=True)
        )
    )
    return same and module.in_channels == module.out_channels and set(module.stride) == {1}
