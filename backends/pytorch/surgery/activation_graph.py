"""Where a model's activations are: which modules they are, what feeds them, and what makes the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from autotrainer.backends.pytorch.layers.functional_patch import CallCounter, called_activation
from autotrainer.backends.pytorch.model import functional
from autotrainer.backends.pytorch.model.describe import activation_name, layers, plain_name
from autotrainer.backends.pytorch.model.functional import Trace
from autotrainer.backends.pytorch.statistics.tracing import ForwardTracer
from autotrainer.records.signals import LayerInfo

__all__ = ["ActivationGraph", "Site", "SiteTracer"]


@dataclass(frozen=True, slots=True)
class Site:
    """An activation module in one place of the model.

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
    """What surgery needs to know of a model. All layers are named as `LayerInfo.name` names them.

    Attributes:
        layers: The layers, in forward order.
        sites: The activation modules.
        functional: Activations that are called as functions inside ``forward``, by the layer that feeds them.
        numbers: Numbers of those calls in a forward pass, by the same layers, where the model's own code calls them.
        attention: Numbers of the calls of ``scaled_dot_product_attention``, by the layers that their row is.
        output_number: Number of the call that made the output, or None.
        ranks: Number of dimensions of the layers' outputs, where the model has been run.
        normalized: Layers whose output goes straight into a normalization.
        joined: Layers whose output is summed with something else before its activation.
        output: Name of the activation that made the output, ``linear`` for none, None if that can't be known.
        output_layers: Layers that the output comes from.
        guessed: Whether this is no more than the order of definition.
    """

    layers: tuple[LayerInfo, ...]
    sites: tuple[Site, ...] = ()
    functional: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attention: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output_number: int | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    normalized: frozenset[str] = frozenset()
    joined: frozenset[str] = frozenset()
    output: str | None = None
    output_layers: frozenset[str] = frozenset()
    guessed: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> ActivationGraph:
        """Read off a model that can't be run: from its graph, or failing that from the order of definition."""
        try:
            graph = fx.Tracer().trace(model)
        except Exception:  # noqa: BLE001 - control flow that depends on data fails in many ways
            return _by_definition(model)
        return _Graph(model).read(graph)


class SiteTracer(ForwardTracer):
    """Follows one forward pass and keeps where activations are."""

    def __init__(self, model: nn.Module) -> None:
        self.errors: list[Exception] = []
        super().__init__(model, self.errors.append, always=True)
        self._everywhere = list(model.named_modules(remove_duplicate=False))
        self._uses: dict[int, list[Trace]] = {}
        self._ranks: dict[int, int] = {}
        self._normalized: set[int] = set()
        self._joined: set[int] = set()
        self._functionals: dict[int, str] = {}
        self._functional_calls: list[tuple[frozenset[int], str, int | None]] = []
        self._numbers: dict[int, tuple[int, ...]] = {}
        self._attention_numbers: dict[int, tuple[int, ...]] = {}
        self._counter = CallCounter()

    def follow(self, forward: Callable[[], Any]) -> ActivationGraph:
        """Run a forward pass.

        Args:
            forward: Runs the model once.

        Returns:
            What it showed; read off the model's graph where the pass can't be followed.
        """
        self.arm()
        try:
            with self._counter:
                forward()
        finally:
            self.disarm()
            self._counter.output = None
        return self._anatomy()

    def _anatomy(self) -> ActivationGraph:
        names = self._names
        trace = self.output_trace or Trace()
        made = trace.layers - {self._rows.get(id(self.model), -1)}  # a root with weights of its own makes all outputs

        def named(rows: Any) -> tuple[str, ...]:
            return tuple(names[row] for row in sorted(rows) if self._infos[row].kind != "norm")

        sites = []
        for row, uses in self._uses.items():
            activation = str(activation_name(self.modules[row]))
            known = [plain_name(path) for path, module in self._everywhere if module is self.modules[row]]
            for number, source in enumerate(uses):
                name = known[number] if len(known) == len(uses) else names[row]
                output = source.layers == made and activation == trace.activation
                sites.append(Site(name, activation, named(source.pending), output))
        ends = [c for c in reversed(self._functional_calls) if c[0] == made and c[1] == trace.activation]
        return ActivationGraph(
            layers=self.describe(self.order()),
            sites=tuple(sites),
            functional={names[row]: name for row, name in self._functionals.items()},
            numbers={names[row]: numbers for row, numbers in self._numbers.items()},
            attention={names[row]: numbers for row, numbers in self._attention_numbers.items()},
            output_number=next((n for source, name, n in ends if n is not None), None),
            ranks={names[row]: rank for row, rank in self._ranks.items()},
            normalized=frozenset(named(self._normalized)),
            joined=frozenset(named(self._joined)),
            output=trace.activation,
            output_layers=frozenset(named(trace.layers)),
        )

    def _see_layer(self, row: int, tensor: Tensor, args: Any) -> None:
        self._ranks.setdefault(row, tensor.ndim)
        if self._infos[row].kind == "norm":
            source = self._traces.get(functional.first_tensor(args))
            self._normalized |= source.pending if source is not None else frozenset()
        super()._see_layer(row, tensor, args)

    def _see_activation(self, row: int, tensor: Tensor, args: Any) -> None:
        source = self._traces.get(functional.first_tensor(args)) or Trace()
        self._uses.setdefault(row, []).append(source)
        self._note_sum(source)
        super()._see_activation(row, tensor, args)

    def _on_functional(self, source: Trace, name: str, output: Tensor) -> None:
        number = self._counter.count - 1 if self._counter.output is output else None
        self._note_sum(source)
        self._functional_calls.append((source.layers, name, number))
        for row in source.pending:
            self._functionals.setdefault(row, name)
            if number is not None:
                self._numbers[row] = (*self._numbers.get(row, ()), number)
        super()._on_functional(source, name, output)

    def _note_sum(self, source: Trace) -> None:
        if any(row not in source.pending and self._infos[row].kind != "norm" for row in source.layers):
            self._joined |= source.pending

    def _on_attention(self, maker: Trace | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        row = self._attending(maker)
        if row is not None:
            self._attention_numbers[row] = (*self._attention_numbers.get(row, ()), self._counter.attentions - 1)
        super()._on_attention(maker, args, kwargs)


@dataclass(slots=True)
class _Flow:
    """What is known of a value in a graph: the layers that made it, the last of them, and its activation."""

    layers: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()
    activation: str | None = None
    number: int | None = None
    maker: str | None = None


class _Graph:
    """Reads off a traced graph what a `SiteTracer` sees in a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kinds = {info.name: info.kind for info in layers(model)}
        self._sites: list[Site] = []
        self._functional: dict[str, str] = {}
        self._numbers: dict[str, tuple[int, ...]] = {}
        self._count = 0
        self._joined: set[str] = set()
        self._attention: dict[str, tuple[int, ...]] = {}
        self._attentions = 0
        self._latest: str | None = None

    def read(self, graph: fx.Graph) -> ActivationGraph:
        """Follow the values of a graph from the inputs to the output."""
        flows: dict[Any, _Flow] = {}
        end = _Flow()
        for node in graph.nodes:
            taken = [flows[n] for n in node.all_input_nodes if n in flows]
            if node.op == "output":
                end = taken[0] if taken else _Flow()
            elif node.op == "call_module":
                flows[node] = self._module(str(node.target), taken[0] if taken else _Flow())
            elif node.op in ("call_function", "call_method"):
                flows[node] = self._function(node.target, taken)
        return ActivationGraph(
            layers=layers(self._model),
            sites=tuple(replace(site, output=_made(site, end)) for site in self._sites),
            functional=self._functional,
            numbers=self._numbers,
            attention=self._attention,
            joined=frozenset(self._joined),
            output_number=end.number,
            output=end.activation,
            output_layers=end.layers,
        )

    def _module(self, path: str, source: _Flow) -> _Flow:
        name, activation = plain_name(path), activation_name(self._model.get_submodule(path))
        if activation is not None:
            self._joined |= source.pending if source.layers != source.pending else frozenset()
            self._sites.append(Site(name, activation, tuple(sorted(source.pending))))
            return _Flow(source.layers, frozenset(), activation, maker=source.maker)
        self._latest = name
        if self._kinds.get(name, "norm") == "norm":
            return source
        return _Flow(frozenset({name}), frozenset({name}), "linear", maker=name)

    def _function(self, target: Any, taken: list[_Flow]) -> _Flow:
        source = taken[0] if taken else _Flow()
        activation = called_activation(target)
        if activation is not None:
            number, self._count = self._count, self._count + 1
            self._joined |= source.pending if source.layers != source.pending else frozenset()
            self._functional.update(dict.fromkeys(source.pending, activation))
            self._numbers.update({name: (*self._numbers.get(name, ()), number) for name in source.pending})
            return _Flow(source.layers, frozenset(), activation, number, source.maker)
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        if name in functional._PASSES or name == "getitem":
            return source
        if name == "scaled_dot_product_attention":
            row = source.maker or self._latest
            if row is not None:
                self._attention[row] = (*self._attention.get(row, ()), self._attentions)
            self._attentions += 1
        made = frozenset[str]().union(*(flow.layers for flow in taken))
        if name not in functional._SUMS:
            return _Flow(made)
        pending = frozenset[str]().union(*(flow.pending for flow in taken))
        linear = all(flow.activation == "linear" for flow in taken)
        maker = next((flow.maker for flow in taken if flow.pending), None)
        return _Flow(made, pending, "linear" if linear else None, maker=maker)


def _made(site: Site, end: _Flow) -> bool:
    return bool(site.feeders) and set(site.feeders) <= end.layers and site.activation == end.activation


def _by_definition(model: nn.Module) -> ActivationGraph:
    """Take the order of definition for the order of the forward pass."""
    infos = layers(model)
    sites: list[Site] = []
    layer: str | None = None
    output = "linear"
    for info in infos:
        if info.kind == "activation":
            feeders = () if layer is None else (layer,)
            sites.append(Site(info.name, str(info.activation), feeders, output=not info.hidden))
            output = str(info.activation)
        elif info.kind != "norm":
            layer, output = info.name, "linear"
    ends = frozenset(info.name for info in infos if not info.hidden and info.kind != "activation")
    return ActivationGraph(infos, tuple(sites), output=output, output_layers=ends, guessed=True)
