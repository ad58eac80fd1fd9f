"""Weights that belong to the table of an embedding: whether they are that parameter, or a separate one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.model.describe import own_parameter, watched_modules
from autotrainer.records.signals import LayerInfo

__all__ = ["Ties"]

_SAMPLE = 256
"""Entries that are compared before whole matrices are."""


class Ties:
    """Finds layers whose weights are the table of an embedding, or should be but are a separate parameter.

    Args:
        model: The model, before its training.
        modules: What `watched_modules` returns for it, if that is known.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module] | None = None) -> None:
        self._modules = watched_modules(model) if modules is None else modules
        self._shared: list[tuple[str, str, str]] = []  # layer, name of its parameter, embedding
        self._separate: dict[str, tuple[str, str]] = {}  # layer -> embedding, what shows it
        tables = {
            name: weight
            for name, module in self._modules.items()
            if isinstance(module, nn.Embedding)  # reading a parametrized weight would compute it
            and (weight := own_parameter(module, "weight")) is not None
            and _has_values(weight)
        }
        matrices: dict[tuple[int, ...], list[tuple[str, str, nn.Parameter]]] = {}
        for each in self._matrices() if tables else ():
            matrices.setdefault(tuple(sorted(each[2].shape)), []).append(each)
        names = {id(module): name for name, module in self._modules.items()}
        for embedding, table in tables.items():
            for layer, part, weight in matrices.get(tuple(sorted(table.shape)), ()):
                if weight is table:
                    self._shared.append((layer, part, embedding))
                elif _is_copy(weight, table):
                    self._separate.setdefault(layer, (embedding, "equal"))
        declared = _declared(model)
        if declared is not None and all(id(module) in names for module in declared):
            embedding, layer = (names[id(module)] for module in declared)
            self._separate[layer] = embedding, "declared"

    def annotate(self, layers: tuple[LayerInfo, ...]) -> tuple[LayerInfo, ...]:
        """Update ``tied_to`` and ``tie`` of the layers; return the same objects if nothing changed."""
        ties = dict(self._separate)
        for layer, part, embedding in self._shared:
            weights = own_parameter(self._modules[layer], part), own_parameter(self._modules[embedding], "weight")
            ties[layer] = embedding, "kept" if weights[0] is weights[1] else "lost"
        if not any((info.tied_to, info.tie) != ties.get(info.name, ("", "")) for info in layers):
            return layers
        pairs = [(info, *ties.get(info.name, ("", ""))) for info in layers]
        return tuple(replace(info, tied_to=embedding, tie=tie) for info, embedding, tie in pairs)

    def _matrices(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """Yield the matrices of all layers that are not embeddings: name of the layer, of the parameter, values."""
        for name, module in self._modules.items():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                continue
            for part, parameter in module._parameters.items():
                if parameter is not None and parameter.ndim == 2 and _has_values(parameter):
                    yield name, part, parameter


def _has_values(parameter: Any) -> bool:
    if type(parameter) is not nn.Parameter:  # lazy, distributed, quantized
        return False
    dense = parameter.layout is torch.strided and parameter.device.type != "meta"
    return dense and parameter.requires_grad and parameter.numel() > 1


@torch.no_grad()
def _is_copy(weight: Tensor, table: Tensor) -> bool:
    """Return whether a trainable matrix or its transpose has the values of a table in other memory."""
    if weight.device != table.device or weight.dtype != table.dtype or weight.data_ptr() == table.data_ptr():
        return False
    for values in (weight, weight.t()):
        if values.shape == table.shape:
            rows = max(1, len(table) // _SAMPLE)
            some = table[::rows, 0]
            if torch.equal(values[::rows, 0], some) and bool((some != some[0]).any()) and torch.equal(values, table):
                return True
    return False


def _declared(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Return the embedding and the output layer of a model of Transformers that says they are tied, but are not."""
    config = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", None) is not True or not getattr(model, "_tied_weights_keys", None):
        return None
    try:
        layers = [getattr(model, name)() for name in ("get_input_embeddings", "get_output_embeddings")]
    except Exception:  # noqa: BLE001 - methods of the user's
        return None
    if not all(isinstance(layer, nn.Module) for layer in layers):
        return None
    embedding, output = layers
    weights: tuple[Any, Any] = own_parameter(embedding, "weight"), own_parameter(output, "weight")
    if not all(_has_values(weight) for weight in weights) or weights[0].shape != weights[1].shape:
        return None
    return None if weights[0].data_ptr() == weights[1].data_ptr() else (embedding, output)
