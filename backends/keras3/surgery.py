"""Edits of Keras models: activations, new weights, inserted layers, input and output.

A `Surgeon` works on a model of its own, never on the user's: activations and weights are changed in place before
anything is traced; inserted layers take a Sequential or Functional model apart and put it together anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import keras

from autotrainer.backends.keras3.graph import Graph, activates
from autotrainer.backends.keras3.layers import (
    draw_weights,
    input_noise,
    make_activation,
    normalization_after,
    own_activation,
    set_own_activation,
    suitable_initializer,
)
from autotrainer.backends.keras3.parts import Part, activation_name, kind_of
from autotrainer.backends.keras3.settings import SETTINGS, edited_optimizer
from autotrainer.backends.keras3.structure import has_graph, rebuild, sublayers
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

__all__ = ["InputStatistics", "Surgeon", "apply_edits"]


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """What the training inputs look like, for one of them.

    Attributes:
        shape: Shape of a row.
        mean: Per feature for rows of rank 1, else a single number.
        std: The same; 1 for constant features.
        spread: Standard deviation over all values.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    spread: float


@dataclass(slots=True)
class _Changes:
    """Layers to exchange and to put in, by `id` of a layer that is there."""

    replaced: dict[int, Any] = field(default_factory=dict)
    after: dict[int, list[Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.replaced or self.after)


class Surgeon:
    """Applies edits to a model, one after the other.

    Args:
        model: A built model that may be changed.
        keep: Layer-name patterns that nothing may touch.
        statistics: Position of an input among the flattened ones -> its statistics, where data are at hand.
    """

    def __init__(
        self,
        model: Any,
        keep: Sequence[str] = (),
        statistics: Callable[[int], InputStatistics] | None = None,
    ) -> None:
        self.model = model
        self._keep = tuple(keep)
        self._statistics = statistics
        self._scaling: str | None = None
        self._graph = Graph(model)

    def apply(self, edit: Edit) -> Edit:
        """Apply an edit; one that is no business of the model is passed over.

        Returns:
            The edit, with numbers filled in that were fitted on the data.

        Raises:
            ConfigError: If it leaves nothing to change, or this model can't be changed so; says why.
        """
        handler = _HANDLERS.get(type(edit))
        if handler is None:
            return edit
        done = handler(self, edit, True)
        self._graph = Graph(self.model)
        return done

    def check(self, edit: Edit) -> None:
        """Raise what `apply` would raise, changing nothing."""
        handler = _HANDLERS.get(type(edit))
        if handler is not None:
            handler(self, edit, False)

    # -- which layers ---------------------------------------------------------------------------------------------

    def _free(self, part: Part) -> bool:
        """Say whether a layer may be touched: not frozen, and no pattern of ``keep`` names it or what holds it."""
        return not part.info.frozen and self._pattern(part.info.name) is None

    def _pattern(self, name: str) -> str | None:
        steps = name.split("/")
        paths = ["/".join(steps[a:b]) for a in range(len(steps)) for b in range(a + 1, len(steps) + 1)]
        return next((p for p in self._keep if any(fnmatchcase(path, p) for path in paths)), None)

    def _named(self, names: Sequence[str]) -> list[Part]:
        """Return the layers of these names; a model put into another one is found under both names.

        Raises:
            ConfigError: If there is none of them, or none that may be touched.
        """
        parts = [p for p in self._graph.parts if any(_same_name(p.info.name, name) for name in names)]
        if not parts:
            raise ConfigError(f"the model has no layer named {', '.join(map(repr, names)) or '(none given)'}")
        free = [p for p in parts if self._free(p)]
        if not free:
            pattern = self._pattern(parts[0].info.name)
            why = f"keep={pattern!r} protects" if pattern else "frozen parameters are never touched:"
            raise ConfigError(f"{why} {', '.join(p.info.name for p in parts)}")
        return free

    def _carriers(self, parts: Sequence[Part]) -> Iterator[tuple[Any, list[Part]]]:
        """Yield the layers that apply the hidden activation of these layers, and the layers with weights below."""
        seen: set[int] = set()
        for part in parts:
            if part.info.kind == "activation":
                carrier, below = part.layer, self._graph.sources(part.layer)
            elif part.activation != "linear" and own_activation(part.layer) is not None:
                carrier, below = part.layer, [part]
            else:
                carrier = self._graph.following_activation(part)
                below = [] if carrier is None else self._graph.sources(carrier)
            if carrier is None or id(carrier) in seen:
                continue
            seen.add(id(carrier))
            row = self._graph.part(carrier)
            if row is None or (row.info.hidden and self._free(row) and all(self._free(p) for p in below)):
                yield carrier, below

    # -- edits ----------------------------------------------------------------------------------------------------

    def _swap_activation(self, edit: SwapActivation, act: bool) -> Edit:
        changes, sources = _Changes(), list[Part]()
        for carrier, below in self._carriers(self._named(edit.layers)):
            if self._set_activation(carrier, edit.to, changes, act):
                sources.extend(below)
        if not sources and not changes:
            raise ConfigError(f"none of {', '.join(edit.layers)} has an activation that can be exchanged here")
        if act:
            for part in sources if edit.reinitialize else ():
                draw_weights(part, suitable_initializer(edit.to))
            self._restructure(changes)
        return edit

    def _set_activation(self, carrier: Any, to: str, changes: _Changes, act: bool) -> bool:
        """Exchange the activation that a layer applies; returns False where that can't be done.

        In place where the layer keeps a function; a class of its own, such as `ReLU`, is replaced, for which the
        model must have a graph. `thresholded_relu` exists as a layer only.
        """
        node = self._graph.node(carrier)
        whole = node is carrier
        if own_activation(carrier) is not None:
            if to != "thresholded_relu":
                if act:
                    set_own_activation(carrier, to)
                return True
            if node is None or kind_of(carrier) == "recurrent":
                return False
            if kind_of(carrier) != "activation":
                changes.after[id(node)] = [make_activation(to, f"{carrier.name}_activation")]
                if act:
                    set_own_activation(carrier, "linear")
                return True
        if whole:
            changes.replaced[id(carrier)] = make_activation(to, carrier.name)
        return whole

    def _reinitialize(self, edit: Reinitialize, act: bool) -> Edit:
        found = self._named(edit.layers)
        below = [q for p in found if p.info.kind == "activation" for q in self._graph.sources(p.layer)]
        parts = [p for p in (*found, *below) if p.weights and p.info.kind != "norm" and self._free(p)]
        if not parts:
            raise ConfigError(f"none of {', '.join(edit.layers)} has weights to draw anew")
        for part in parts if act else ():
            draw_weights(part, edit.scheme)
        return edit

    def _insert_normalization(self, edit: InsertNormalization, act: bool) -> Edit:
        self._needs_graph("a normalization can't be inserted")
        found = self._named(edit.layers)
        below = [q for p in found if p.info.kind == "activation" for q in self._graph.sources(p.layer)]
        changes, split = _Changes(), list[Any]()
        for part in (*found, *below):
            node = self._graph.node(part.layer)
            if part.info.kind not in ("dense", "conv") or not part.info.hidden or not self._free(part):
                continue
            if id(node) in changes.after or any(kind_of(n) == "norm" for n in self._graph.behind(node)):
                continue
            changes.after[id(node)] = [normalization_after(part.layer, node, edit.kind, self._new_name)]
            if part.activation != "linear":
                function = own_activation(part.layer)
                name = self._new_name(f"{part.layer.name}_activation")
                changes.after[id(node)].append(keras.layers.Activation(function, name=name))
                split.append(part.layer)
        if not changes:
            raise ConfigError(
                f"none of {', '.join(edit.layers)} is a hidden dense or convolutional layer without normalization"
            )
        if act:
            for layer in split:
                set_own_activation(layer, "linear")
            self._restructure(changes)
        return edit

    def _add_dropout(self, edit: AddDropout, act: bool) -> Edit:
        self._needs_graph("a dropout layer can't be inserted")
        changes = _Changes()
        for part in self._named(edit.layers):
            separate = self._graph.following_activation(part) if part.activation == "linear" else None
            node = separate if separate is not None else self._graph.node(part.layer)
            row = self._graph.part(node)
            if not part.info.hidden or (row is not None and not row.info.hidden):
                continue
            name = self._new_name(f"{node.name}_dropout")
            changes.after.setdefault(id(node), [keras.layers.Dropout(edit.rate, name=name)])
        if not changes:
            raise ConfigError(f"{', '.join(edit.layers)} makes the output: dropout belongs after hidden layers")
        if act:
            self._restructure(changes)
        return edit

    def _set_output_activation(self, edit: SetOutputActivation, act: bool) -> Edit:
        if not has_graph(self.model):
            raise ConfigError(f"{type(self.model).__name__}.call() is code: its output activation can't be exchanged")
        if len(keras.tree.flatten(self.model.outputs)) != 1:
            raise ConfigError("the model has several outputs")
        chain = self._graph.output_chain()
        separate = [layer for layer in chain if activates(layer)]
        last = chain[-1] if chain else None
        inner = last.layer if isinstance(last, keras.layers.TimeDistributed) else last
        fused = inner if kind_of(inner) in ("dense", "conv") and own_activation(inner) is not None else None
        row = None if inner is None else self._graph.part(inner)
        bound = row is not None and not self._free(row)
        changes, to = _Changes(), edit.to
        for layer in separate:
            changes.replaced[id(layer)] = make_activation(to, layer.name)
            to = "linear"
        if fused is not None and not (bound and activation_name(own_activation(fused)) == to):
            if bound:
                raise ConfigError(f"the output layer {row.info.name if row else ''} is frozen or kept")
            if to == "thresholded_relu":
                changes.after[id(last)] = [make_activation(to, self._new_name("output_activation"))]
                to = "linear"
            if act:
                set_own_activation(fused, to)
        elif fused is None and not separate:
            if to == "linear" or last is None:
                raise ConfigError("the output has no activation that could be removed")
            changes.after[id(chain[0])] = [make_activation(to, self._new_name("output_activation"))]
        if act and changes:
            self._restructure(changes)
        return edit

    def _scale_inputs(self, edit: ScaleInputs, act: bool) -> Edit:
        entry, _ = self._entry()
        if not edit.mean or not edit.std:
            if self._statistics is None:
                raise ConfigError("ScaleInputs has no numbers, and there are no data to fit them on")
            if not act:
                return edit
            seen = self._statistics(entry)
            edit = replace(edit, mean=seen.mean, std=seen.std)
        if act:
            single = len(edit.mean) == 1 and self._width(entry) != 1
            self._scaling = self._new_name("input_scaling")
            scaling = keras.layers.Normalization(
                axis=None if single else -1,
                mean=edit.mean[0] if single else list(edit.mean),
                variance=edit.std[0] ** 2 if single else [s**2 for s in edit.std],
                name=self._scaling,
            )
            self._put_in_front([scaling], entry)
        return edit

    def _add_input_noise(self, edit: AddInputNoise, act: bool) -> Edit:
        entry, _ = self._entry()
        scaled = self._scaling is not None
        spread = 1.0 if scaled or self._statistics is None or not act else self._statistics(entry).spread
        if not 0 < edit.std <= 1:
            raise ConfigError(f"noise of {edit.std} standard deviations is out of (0, 1]")
        if act:
            layers = input_noise(edit.std, spread, self._new_name)
            if scaled:
                self._restructure(_Changes(after={id(self.model.get_layer(self._scaling)): layers}))
            else:
                self._put_in_front(layers, entry)
        return edit

    # -- structure ------------------------------------------------------------------------------------------------

    def _needs_graph(self, what: str) -> None:
        if not has_graph(self.model):
            raise ConfigError(
                f"{what}: {type(self.model).__name__}.call() is code; a Sequential or Functional model "
                "can be restructured"
            )

    def _new_name(self, name: str) -> str:
        taken = {layer.name for layer in sublayers(self.model)}
        return next(n for n in (name, *(f"{name}_{i}" for i in range(1, 10_000))) if n not in taken)

    def _restructure(self, changes: _Changes) -> None:
        if not changes:
            return
        self.model = rebuild(self.model, replaced=changes.replaced, after=changes.after)

    def _put_in_front(self, layers: list[Any], entry: int) -> None:
        if has_graph(self.model):
            self.model = rebuild(self.model, head=layers, entry=entry)
            return
        shape = self._statistics(entry).shape if self._statistics is not None else None
        if shape is None:
            raise ConfigError(f"the input shape of {type(self.model).__name__} isn't known here")
        self.model = keras.Sequential([keras.Input(shape), *layers, self.model])

    def _entry(self) -> tuple[int, Any]:
        """Return position and tensor of the first input that holds values rather than indices.

        Raises:
            ConfigError: If there is none, or layers can't be put in front of the model.
        """
        model = self.model
        if not has_graph(model):
            if type(model).train_step is not keras.Model.train_step:
                raise ConfigError(
                    f"{type(model).__name__} has a train_step of its own: nothing can be put in front of it"
                )
            if self._graph.parts and self._graph.parts[0].info.kind == "embedding":
                raise ConfigError("the input holds indices for an embedding")
            return 0, None
        for entry, tensor in enumerate(keras.tree.flatten(model.inputs)):
            takers = self._graph.behind(tensor._keras_history.operation)
            indices = any(kind_of(self._first(layer)) == "embedding" for layer in takers)
            if "float" in str(tensor.dtype) and not indices:
                return entry, tensor
        raise ConfigError("no input holds values of floating type: integers and indices are not scaled")

    def _first(self, layer: Any) -> Any:
        while isinstance(layer, keras.Sequential) and layer.layers:
            layer = layer.layers[0]
        return layer

    def _width(self, entry: int) -> int | None:
        if not has_graph(self.model):
            return self._statistics(entry).shape[-1] if self._statistics is not None else None
        shape = keras.tree.flatten(self.model.inputs)[entry].shape
        return shape[-1] if len(shape) == 2 else None


_HANDLERS: Mapping[type[Edit], Callable[[Surgeon, Any, bool], Edit]] = {
    SwapActivation: Surgeon._swap_activation,
    Reinitialize: Surgeon._reinitialize,
    InsertNormalization: Surgeon._insert_normalization,
    AddDropout: Surgeon._add_dropout,
    SetOutputActivation: Surgeon._set_output_activation,
    ScaleInputs: Surgeon._scale_inputs,
    AddInputNoise: Surgeon._add_input_noise,
}


def _same_name(a: str, b: str) -> bool:
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)


def in_order(edits: Sequence[Edit]) -> list[Edit]:
    """Return edits in the order in which they are applied: scaling first, since noise is measured against it."""
    return sorted(edits, key=lambda edit: not isinstance(edit, ScaleInputs))


def apply_edits(edits: Sequence[Edit], model: Any, optimizer: Any = None) -> tuple[Any, Any]:
    """Apply a plan to a fresh model of the user's.

    Args:
        edits: The edits, with fitted numbers. What belongs to `fit` or `compile` (loss, batch size, plateau,
            early stopping) is passed over.
        model: A built model. It is not to be used further.
        optimizer: A Keras optimizer, or None for that of a compiled model.

    Returns:
        The changed, uncompiled model, and a fresh optimizer (None if there is none to start from).

    Raises:
        ConfigError: If an edit does not fit the model.
    """
    if not model.built:
        raise ConfigError(f"model {model.name!r} is not built: give it a keras.Input, or call it once, before the plan")
    template = optimizer if optimizer is not None else getattr(model, "optimizer", None)
    surgeon = Surgeon(model)
    for edit in in_order(edits):
        surgeon.apply(edit)
    if isinstance(template, str):
        template = keras.optimizers.get(template)
    if template is None and not any(type(edit) in SETTINGS for edit in edits):
        return surgeon.model, None
    return surgeon.model, edited_optimizer(template, edits, surgeon.model)
