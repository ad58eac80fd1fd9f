"""Where a model's activations are: which modules they are, what feeds them, and what makes the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from autotrainer.backends.pytorch import functional
from autotrainer.backends.pytorch.describe import activation_name, layers, plain_name, watched_modules
from autotrainer.backends.pytorch.functional import Trace
from autotrainer.backends.pytorch.tracing import ForwardTracer
from autotrainer.signals import LayerInfo

__all__ = ["Anatomy", "Site", "SiteTracer", "paths"]


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
class Anatomy:
    """What surgery needs to know of a model. All layers are named as `LayerInfo.name` names them.

    Attributes:
        layers: The layers, in forward order.
        sites: The activation modules.
        functional: Activations that are called as functions inside ``forward``, by the layer that feeds them.
        ranks: Number of dimensions of the layers' outputs, where the model has been run.
        normalized: Layers whose output goes straight into a normalization.
        output: Name of the activation that made the output, ``linear`` for none, None if that can't be known.
        output_layers: Layers that the output comes from.
    """

    layers: tuple[LayerInfo, ...]
    sites: tuple[Site, ...] = ()
    functional: Mapping[str, str] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    normalized: frozenset[str] = frozenset()
    output: str | None = None
    output_layers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        """Read off a model that can't be run: from its graph, or failing that from the order of definition."""
        try:
            graph = fx.Tracer().trace(model)
        except Exception:  # noqa: BLE001 - control flow that depends on data fails in many ways
            return _by_definition(model)
        return _by_graph(model, graph)


def paths(model: nn.Module) -> dict[str, str]:
    """Return the module path of every layer name; the outermost where an edit has wrapped a layer."""
    found: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found.setdefault(plain_name(path) or type(module).__name__.lower(), path)
    return found


class SiteTracer(ForwardTracer):
    """Follows one forward pass and keeps where activations are."""

    def __init__(self, model: nn.Module) -> None:
        self.errors: list[Exception] = []
        super().__init__(model, self.errors.append, always=True)
        self._everywhere = list(model.named_modules(remove_duplicate=False))
        self._uses: dict[int, list[Trace]] = {}
        self._ranks: dict[int, int] = {}
        self._normalized: set[int] = set()
        self._functionals: dict[int, str] = {}

    def follow(self, forward: Callable[[], Any]) -> Anatomy:
        """Run a forward pass.

        Args:
            forward: Runs the model once.

        Returns:
            What it showed; read off the model's graph where the pass can't be followed.
        """
        self.arm()
        try:
            forward()
        finally:
            self.disarm()
        return self._anatomy()

    def _anatomy(self) -> Anatomy:
        names = self._names
        trace = self.output_trace or Trace()

        def named(rows: Any) -> tuple[str, ...]:
            return tuple(names[row] for row in sorted(rows))

        sites = []
        for row, uses in self._uses.items():
            activation = str(activation_name(self.modules[row]))
            known = [plain_name(path) for path, module in self._everywhere if module is self.modules[row]]
            for number, source in enumerate(uses):
                name = known[number] if len(known) == len(uses) else names[row]
                output = source.layers == trace.layers and activation == trace.activation
                sites.append(Site(name, activation, named(source.pending), output))
        return Anatomy(
            layers=self.describe(self.order()),
            sites=tuple(sites),
            functional={names[row]: name for row, name in self._functionals.items()},
            ranks={names[row]: rank for row, rank in self._ranks.items()},
            normalized=frozenset(named(self._normalized)),
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
        self._uses.setdefault(row, []).append(self._traces.get(functional.first_tensor(args)) or Trace())
        super()._see_activation(row, tensor, args)

    def _on_functional(self, source: Trace, name: str, output: Tensor) -> None:
        for row in source.pending:
            self._functionals.setdefault(row, name)
        super()._on_functional(source, name, output)


@dataclass(slots=True)
class _Flow:
    """What is known of a value in a graph: the layers that made it, and the activation it went through."""

    layers: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()
    activation: str | None = None


def _by_graph(model: nn.Module, graph: fx.Graph) -> Anatomy:
    """Read off sites and output of a traced graph."""
    kinds = {info.name: info.kind for info in layers(model)}
    flows: dict[Any, _Flow] = {}
    sites: list[Site] = []
    called: dict[str, str] = {}
    for node in graph.nodes:
        taken = [flows[n] for n in node.all_input_nodes if n in flows]
        source = taken[0] if taken else _Flow()
        if node.op == "output":
            ends = [flows[n] for n in node.all_input_nodes if n in flows]
            end = ends[0] if ends else _Flow()
            last = [Site(s.name, s.activation, s.feeders, _made(s, end)) for s in sites]
            return Anatomy(layers(model), tuple(last), called, output=end.activation, output_layers=end.layers)
        if node.op == "call_module":
            module = model.get_submodule(node.target)
            name, activation = plain_name(node.target), activation_name(module)
            if activation is not None:
                sites.append(Site(name, activation, tuple(sorted(source.pending))))
                flows[node] = _Flow(source.layers, frozenset(), activation)
            elif kinds.get(name, "norm") != "norm":
                flows[node] = _Flow(frozenset({name}), frozenset({name}), "linear")
            else:
                flows[node] = source
        elif node.op in ("call_function", "call_method"):
            flows[node] = _called(node, taken, source, called)
    return Anatomy(layers(model), tuple(sites), called)


def _called(node: Any, taken: list[_Flow], source: _Flow, called: dict[str, str]) -> _Flow:
    """Follow a function or method in a graph; functional activations are noted in ``called``."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    base = name if name.startswith("__") else name.rstrip("_")
    activation = functional.ACTIVATIONS.get(base)
    if activation is not None:
        called.update(dict.fromkeys(source.pending, activation))
        return _Flow(source.layers, frozenset(), activation)
    if base in functional.PASSES or base == "getitem":
        return source
    parts = [flow.layers for flow in taken]
    linear = base in functional.SUMS and all(flow.activation == "linear" for flow in taken)
    pending = frozenset[str]().union(*(flow.pending for flow in taken)) if base in functional.SUMS else frozenset()
    return _Flow(frozenset[str]().union(*parts), pending, "linear" if linear else None)


def _made(site: Site, end: _Flow) -> bool:
    return bool(site.feeders) and set(site.feeders) <= end.layers and site.activation == end.activation


def _by_definition(model: nn.Module) -> Anatomy:
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
    return Anatomy(infos, tuple(sites), output=output, output_layers=ends)
