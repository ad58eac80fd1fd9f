"""Modules of a model by layer name: their paths, what protects them, and replacing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from autotrainer.backends.pytorch.layers.modules import Followed, Wrapped
from autotrainer.backends.pytorch.model.describe import direct_parameters, plain_name, watched_modules
from autotrainer.errors import ConfigError, nearest

__all__ = ["CLOSED", "ModulePaths"]

CLOSED = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)
"""Layers of PyTorch that use the weights of their submodules without calling these."""


class ModulePaths:
    """The modules of one model by layer name.

    Args:
        model: The model; `replace` changes it.
        keep: Patterns of layer names that must not be touched; a pattern that matches a container covers all in it.
    """

    def __init__(self, model: nn.Module, keep: Sequence[str] = ()) -> None:
        self.model = model
        self._keep = tuple(keep)
        self._paths: dict[str, str] = {}
        self._renamed: dict[str, str] = {}
        self._refresh()
        self._kept: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):  # any name of a shared module may be kept
            name = plain_name(path) or type(module).__name__.lower()
            kept = self.kept_reason(name)
            self._kept |= {id(parameter): kept for parameter in direct_parameters(module) if kept}
        self._protected = {
            id(parameter): f"`{name}` has frozen parameters"
            for name, module in watched_modules(model).items()
            for parameter in direct_parameters(module)
            if not parameter.requires_grad
        } | self._kept

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all layers."""
        return tuple(self._paths)

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def path(self, name: str) -> str:
        """Return the path of the module of a layer name; where edits have wrapped it, that of the layer inside.

        Raises:
            ConfigError: If there is no such layer.
        """
        path = self._outermost(name)
        while isinstance(self.model.get_submodule(path), Wrapped):
            path = f"{path}.wrapped_layer"
        return path

    def _outermost(self, name: str) -> str:
        """Return the path of the outermost wrapper that edits have put around the module of a layer name."""
        name = self._renamed.get(name, name)
        if name not in self._paths:
            raise ConfigError(f"the model has no layer {name!r}: {nearest(name, self._paths)}")
        return self._paths[name]

    def module(self, name: str) -> nn.Module:
        """Return the module of a layer name.

        Raises:
            ConfigError: If there is no such layer.
        """
        return self.model.get_submodule(self.path(name))

    def parents(self, name: str) -> Iterator[nn.Module]:
        """Yield the modules that contain a layer, innermost first."""
        path = self.path(name)
        while path:
            path = path.rpartition(".")[0]
            yield self.model.get_submodule(path)

    def replace(self, path: str, module: nn.Module) -> None:
        """Replace the module at a path; the empty path is that of the model itself."""
        if path:
            parent, _, name = path.rpartition(".")
            self.model.get_submodule(parent)._modules[name] = module
        else:
            self.model = module
        self._refresh()

    def insert_after(self, name: str, then: nn.Module) -> None:
        """Insert a module directly behind a layer, before what edits have inserted there already."""
        path = self.path(name)
        layer = self.model.get_submodule(path)
        like = next(layer.parameters(), None)
        like = next(self.model.parameters(), None) if like is None else like
        if like is not None and like.is_floating_point():
            then.to(like.device, like.dtype)
        wrapped = Followed(layer, then.train(layer.training))
        wrapped.training = layer.training
        self.replace(path, wrapped)

    def enclose(self, name: str, wrap: Callable[[nn.Module], Wrapped]) -> None:
        """Put a layer, with everything that edits have inserted behind it, into another module."""
        path = self._outermost(name)
        layer = self.model.get_submodule(path)
        wrapped = wrap(layer)
        like = next(layer.parameters())
        for parameter in wrapped.parameters(recurse=False):
            parameter.data = parameter.data.to(like.device, like.dtype)
        wrapped.training = layer.training
        self.replace(path, wrapped)

    def rename(self, name: str, to: str) -> None:
        """Have a layer name refer to the module of another name from now on."""
        self._renamed[name] = to

    def kept_reason(self, name: str) -> str:
        """Return why ``keep`` protects a layer, or an empty string."""
        parts = name.split(".")
        containers = [".".join(parts[: i + 1]) for i in range(len(parts))]
        pattern = next((p for p in self._keep if any(fnmatchcase(c, p) for c in containers)), None)
        return "" if pattern is None else f"keep={pattern!r} protects `{name}`"

    def kept_weights_reason(self, name: str) -> str:
        """Return why ``keep`` protects a layer or a weight that it shares with another, or an empty string."""
        kept = self.kept_reason(name)
        if kept:
            return kept
        shared = next(filter(None, (self._kept.get(id(p)) for p in direct_parameters(self.module(name)))), "")
        return shared and f"`{name}` shares weights with a layer that must not change: {shared}"

    def protection(self, name: str) -> str:
        """Return why the weights of a layer must stay as they are, or an empty string."""
        kept = self.kept_reason(name)
        if kept or name not in self:
            return kept
        reasons = (self._protected.get(id(p)) for p in direct_parameters(self.module(name)))
        return next((reason for reason in reasons if reason), "")

    def closed_reason(self, name: str) -> str:
        """Return which attention or transformer layer uses a layer without calling it, or an empty string."""
        outer = next((parent for parent in self.parents(name) if isinstance(parent, CLOSED)), None)
        return "" if outer is None else f"`{name}` is a part of {type(outer).__name__}, which does not call it"

    def _refresh(self) -> None:
        self._paths = {}
        for path, module in self.model.named_modules(remove_duplicate=False):
            self._paths.setdefault(plain_name(path) or type(module).__name__.lower(), path)
