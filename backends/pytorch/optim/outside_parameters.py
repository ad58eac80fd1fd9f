"""Parameters that a model's outputs depend on, but that belong neither to the model nor to an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.losses.loss_graph import graph_parameters
from autotrainer.backends.pytorch.model.weight_patterns import weight_origins_of
from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.runtime.torch_private import write_version
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence

__all__ = ["OutsideParameters"]

_INSPECTED = 4
"""Passes whose graph is walked, which takes a microsecond a node: those of real and of generated samples, too."""


_ENTRIES = 64
"""Entries of a parameter that show whether it changes."""


class OutsideParameters:
    """Finds parameters in the graph of a model's outputs that neither the model nor an optimizer has.

    Layers in a plain list or dict are none of the model's modules; those that are made in ``forward`` are new in each
    pass. Whether another, unwatched optimizer trains them shows in what writes to them.

    Args:
        model: The model.
        optimizers: All its optimizers.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._model, self._optimizers = model, WeakSequence(optimizers)
        self._found: list[tuple[ref[Tensor], int, Tensor]] = []  # with the writes to it so far, and entries of it
        self._new: list[int] = []  # entries that each of the first passes was the first to use
        self._drawn = False
        """Whether those of the latest pass have the weights of an initializer."""

    def note(self, output: Any) -> None:
        """Note what a pass with gradients has returned."""
        tensor = first_tensor(output, floating=True)
        if len(self._new) >= _INSPECTED or tensor is None or tensor.grad_fn is None:
            return
        parameters = list(self._model.parameters())
        if any(type(p) is not nn.Parameter for p in parameters):
            return  # sharded ones are replaced for a pass
        own = {id(p) for p in parameters}.union(*map(parameter_ids, self._optimizers))
        found = [p for p in graph_parameters(tensor) if type(p) is nn.Parameter and id(p) not in own]
        known = {id(p) for reference, _, _ in self._found if (p := reference()) is not None}
        new = [p for p in found if id(p) not in known]
        self._found += [(ref(p), write_version(p), _entries(p).clone()) for p in new]
        self._new.append(sum(p.numel() for p in new))
        if new:
            origins = weight_origins_of(new)
            self._drawn = "drawn" in origins and "trained" not in origins

    def values(self) -> dict[str, float]:
        """Return ``outside_parameters`` and ``outside_drawn``, see `STEP_COLUMNS`; nothing before the first passes."""
        if len(self._new) < _INSPECTED:
            return {}
        alive = [(p, writes, entries) for reference, writes, entries in self._found if (p := reference()) is not None]
        # Writes through `data` are not counted, but seen in the entries.
        unchanged = [p for p, writes, entries in alive if write_version(p) == writes and _entries(p).equal(entries)]
        made_anew = not alive and all(self._new)  # by each pass; constants and initial states are no weights
        count = self._new[-1] * self._drawn if made_anew else sum(p.numel() for p in unchanged)
        return {"outside_parameters": float(count), "outside_drawn": float(self._drawn)}


def _entries(parameter: Tensor) -> Tensor:
    """Return a few entries of a parameter, from all of it."""
    entries = parameter.detach().flatten()
    return entries[:: max(1, entries.numel() // _ENTRIES)]
