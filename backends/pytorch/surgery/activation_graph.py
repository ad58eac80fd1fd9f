"""Where a model's activations are: which modules or function calls they are, what feeds them, what makes the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from autotrainer.backends.pytorch.layers.functional_patch import CallCounter, called_activation
from autotrainer.backends.pytorch.model.describe import activation_name, layers, plain_name
from autotrainer.backends.pytorch.model.tensor_origins import PASS_THROUGH, SUMS, TensorOrigin
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.statistics.forward_tracer import ForwardTracer
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import LayerInfo

__all__ = ["ActivationGraph", "ActivationNode", "ActivationTracer"]


@dataclass(frozen=True, slots=True)
class ActivationNode:
    """One use of an activation module.

    Attributes:
        name: Layer name of the module there.
        activation: Lower-case name of the activation.
        feeders: Layers whose output goes through it.
        output: Whether it makes the model's output.
    """

    name: str
    activation: str
    feeders: tuple[str, ...]
    output: bool = False


@dataclass(frozen=True, slots=True)
class ActivationGraph:
    """The activations of a model and their neighbors. Layers are given by `LayerInfo.name`.

    Attributes:
        layers: The layers, in forward order.
        nodes: The uses of activation modules.
        functional: Activations that are called as functions inside ``forward``, by the layer that feeds them.
        call_numbers: Numbers of those calls in a forward pass, by the same layers, for calls in the model's own code
            (see `autotrainer.backends.pytorch.layers.functional_patch`).
        attention_calls: Numbers of the calls of ``scaled_dot_product_attention``, by the layers that they belong to.
        output_call: Number of the call that made the output, or None.
        ranks: Number of dimensions of the layers' outputs, if the model has been run.
        normalized: Layers whose output goes directly into a normalization.
        summed: Layers whose output is summed with something else before its activation.
        output: Name of the activation that made the output, ``linear`` for none, None if unknown.
        output_layers: Layers that the output comes from.
        guessed: Whether the order of definition was taken for the forward order.
    """

    layers: tuple[LayerInfo, ...]
    nodes: tuple[ActivationNode, ...] = ()
    functional: Mapping[str, str] = field(default_factory=dict)
    call_numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attention_calls: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output_call: int | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    normalized: frozenset[str] = frozenset()
    summed: frozenset[str] = frozenset()
    output: str | None = None
    output_layers: frozenset[str] = frozenset()
    guessed: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> ActivationGraph:
        """Return the graph of a model that can't be run: by symbolic tracing, or else from the order of definition."""
        try:
            graph = fx.Tracer().trace(model)
        except Exception:  # noqa: BLE001 - control flow that depends on data fails in many ways
            return _by_definition(model)
        return _GraphReader(model).read(graph)


class ActivationTracer(ForwardTracer):
    """Builds the activation graph of a model from one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.errors: list[Exception] = []
        guard = StatisticGuard(lambda statistic, error: self.errors.append(error))
        super().__init__(model, self.errors.append, guard, without_gradients=True)
        self._all_paths = list(model.named_modules(remove_duplicate=False))
        self._sources: dict[int, list[TensorOrigin]] = {}
        self._ranks: dict[int, int] = {}
        self._normalized: set[int] = set()
        self._summed: set[int] = set()
        self._functional: dict[int, str] = {}
        self._functional_calls: list[tuple[frozenset[int], str, int | None]] = []
        self._call_numbers: dict[int, tuple[int, ...]] = {}
        self._attention_calls: dict[int, tuple[int, ...]] = {}
        self._counter = CallCounter()

    def trace(self, forward: Callable[[], Any]) -> ActivationGraph:
        """Run a forward pass.

        Args:
            forward: Runs the model once.

        Returns:
            The graph of that pass.
        """
        self.arm()
        try:
            with self._counter:
                forward()
        finally:
            self.disarm()
            self._counter.output = None
        return self._build_graph()

    def _build_graph(self) -> ActivationGraph:
        names = self.names
        origin = self.output_origin or TensorOrigin()
        root = self._rows.get(id(self.model), -1)  # if it has direct parameters, it makes all outputs
        makers = origin.layers - {root}

        def named(rows: Any) -> tuple[str, ...]:
            return tuple(names[row] for row in sorted(rows) if self._infos[row].kind != "norm")

        nodes = []
        for row, sources in self._sources.items():
            activation = str(activation_name(self.modules[row]))
            paths = [plain_name(path) for path, module in self._all_paths if module is self.modules[row]]
            for number, source in enumerate(sources):
                name = paths[number] if len(paths) == len(sources) else names[row]
                output = source.layers == makers and activation == origin.activation
                nodes.append(ActivationNode(name, activation, named(source.pending), output))
        calls = reversed(self._functional_calls)
        output_calls = [number for made_by, name, number in calls if made_by == makers and name == origin.activation]
        return ActivationGraph(
            layers=self.describe(self.order()),
            nodes=tuple(nodes),
            functional={names[row]: name for row, name in self._functional.items()},
            call_numbers={names[row]: numbers for row, numbers in self._call_numbers.items()},
            attention_calls={names[row]: numbers for row, numbers in self._attention_calls.items()},
            output_call=next((number for number in output_calls if number is not None), None),
            ranks={names[row]: rank for row, rank in self._ranks.items()},
            normalized=frozenset(named(self._normalized)),
            summed=frozenset(named(self._summed)),
            output=origin.activation,
            output_layers=frozenset(named(origin.layers)),
        )

    def _record_layer(self, row: int, tensor: Tensor, args: Any) -> None:
        self._ranks.setdefault(row, tensor.ndim)
        if self._infos[row].kind == "norm":
            source = self._origins.get(first_tensor(args))
            self._normalized |= source.pending if source is not None else frozenset()
        super()._record_layer(row, tensor, args)

    def _record_activation(self, row: int, tensor: Tensor, args: Any) -> None:
        source = self._origins.get(first_tensor(args)) or TensorOrigin()
        self._sources.setdefault(row, []).append(source)
        self._mark_summed(source)
        super()._record_activation(row, tensor, args)

    def _on_functional(self, source: TensorOrigin, name: str, output: Tensor) -> None:
        number = self._counter.count - 1 if self._counter.output is output else None
        self._mark_summed(source)
        self._functional_calls.append((source.layers, name, number))
        for row in source.pending:
            self._functional.setdefault(row, name)
            if number is not None:
                self._call_numbers[row] = (*self._call_numbers.get(row, ()), number)
        super()._on_functional(source, name, output)

    def _mark_summed(self, source: TensorOrigin) -> None:
        if any(row not in source.pending and self._infos[row].kind != "norm" for row in source.layers):
            self._summed |= source.pending

    def _on_attention(self, source: TensorOrigin | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        row = self._attention_row(source)
        if row is not None:
            self._attention_calls[row] = (*self._attention_calls.get(row, ()), self._counter.attentions - 1)
        super()._on_attention(source, args, kwargs)


@dataclass(slots=True)
class _ValueOrigin:
    """Where a value of a traced graph comes from: a `TensorOrigin` with layer names and the activation's call."""

    layers: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()
    activation: str | None = None
    call_number: int | None = None
    last_layer: str | None = None


class _GraphReader:
    """Builds the activation graph from a symbolic trace, as `ActivationTracer` does from a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kinds = {info.name: info.kind for info in layers(model)}
        self._nodes: list[ActivationNode] = []
        self._functional: dict[str, str] = {}
        self._call_numbers: dict[str, tuple[int, ...]] = {}
        self._count = 0
        self._summed: set[str] = set()
        self._followed: set[str] = set()  # layers whose output other functions take
        self._attention_calls: dict[str, tuple[int, ...]] = {}
        self._attention_count = 0
        self._latest_layer: str | None = None

    def read(self, graph: fx.Graph) -> ActivationGraph:
        """Track the values of a graph from the inputs to the output."""
        origins: dict[Any, _ValueOrigin] = {}
        output = _ValueOrigin()
        for node in graph.nodes:
            inputs = [origins[n] for n in node.all_input_nodes if n in origins]
            if node.op == "output":
                output = inputs[0] if inputs else _ValueOrigin()
            elif node.op == "call_module":
                origins[node] = self._module(str(node.target), inputs[0] if inputs else _ValueOrigin())
            elif node.op in ("call_function", "call_method"):
                origins[node] = self._function(node.target, inputs)
        return ActivationGraph(
            layers=tuple(map(self._described, layers(self._model))),
            nodes=tuple(replace(node, output=_makes_output(node, output)) for node in self._nodes),
            functional=self._functional,
            call_numbers=self._call_numbers,
            attention_calls=self._attention_calls,
            summed=frozenset(self._summed),
            output_call=output.call_number,
            output=output.activation,
            output_layers=output.layers,
        )

    def _described(self, info: LayerInfo) -> LayerInfo:
        """Return a layer, as one without activation where the graph shows that no function follows it."""
        if info.activation is not None or info.kind not in ("dense", "conv"):
            return info
        return (
            info if info.name in self._followed or info.name in self._functional else replace(info, activation="linear")
        )

    def _module(self, path: str, source: _ValueOrigin) -> _ValueOrigin:
        name, activation = plain_name(path), activation_name(self._model.get_submodule(path))
        if activation is not None:
            self._summed |= source.pending if source.layers != source.pending else frozenset()
            self._nodes.append(ActivationNode(name, activation, tuple(sorted(source.pending))))
            return _ValueOrigin(source.layers, frozenset(), activation, last_layer=source.last_layer)
        self._latest_layer = name
        if self._kinds.get(name, "norm") == "norm":
            return source
        return _ValueOrigin(frozenset({name}), frozenset({name}), "linear", last_layer=name)

    def _function(self, target: Any, inputs: list[_ValueOrigin]) -> _ValueOrigin:
        source = inputs[0] if inputs else _ValueOrigin()
        activation = called_activation(target)
        if activation is not None:
            number, self._count = self._count, self._count + 1
            self._summed |= source.pending if source.layers != source.pending else frozenset()
            self._functional.update(dict.fromkeys(source.pending, activation))
            self._call_numbers.update({name: (*self._call_numbers.get(name, ()), number) for name in source.pending})
            return _ValueOrigin(source.layers, frozenset(), activation, number, source.last_layer)
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        if name in PASS_THROUGH or name == "getitem":
            return source
        if name == "scaled_dot_product_attention":
            row = source.last_layer or self._latest_layer
            if row is not None:
                self._attention_calls[row] = (*self._attention_calls.get(row, ()), self._attention_count)
            self._attention_count += 1
        makers = frozenset[str]().union(*(origin.layers for origin in inputs))
        if name not in SUMS:
            self._followed |= frozenset[str]().union(*(origin.pending for origin in inputs))
            return _ValueOrigin(makers)
        pending = frozenset[str]().union(*(origin.pending for origin in inputs))
        linear = all(origin.activation == "linear" for origin in inputs)
        last_layer = next((origin.last_layer for origin in inputs if origin.pending), None)
        return _ValueOrigin(makers, pending, "linear" if linear else None, last_layer=last_layer)


def _makes_output(node: ActivationNode, output: _ValueOrigin) -> bool:
    feeders = set(node.feeders)
    return bool(feeders) and feeders <= output.layers and node.activation == output.activation


def _by_definition(model: nn.Module) -> ActivationGraph:
    infos = layers(model)
    nodes: list[ActivationNode] = []
    layer: str | None = None
    output = "linear"
    for info in infos:
        if info.kind == "activation":
            feeders = () if layer is None else (layer,)
            nodes.append(ActivationNode(info.name, str(info.activation), feeders, output=not info.hidden))
            output = str(info.activation)
        elif info.kind != "norm":
            layer, output = info.name, "linear"
    output_layers = frozenset(info.name for info in infos if not info.hidden and info.kind != "activation")
    return ActivationGraph(infos, tuple(nodes), output=output, output_layers=output_layers, guessed=True)
