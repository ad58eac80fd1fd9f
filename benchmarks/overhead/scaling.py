"""What a sampled step costs on paper, by the size of the model, and how stalls of ranks add up: `docs/costs.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["MODELS", "PIECE", "Activation", "Model", "bytes_read", "operations", "simulated_stall"]

ENTRIES_PER_LAYER, MOST_ENTRIES = 4096, 1 << 20
"""Entries of a layer's weights that are compared one by one, and of all layers."""
PIECE = 1 << 20
"""Entries of an activation from which only its extremes and silent units are read as a whole."""
_ENTRY_PASSES, _PART_PASSES = 18, 4
_PER_LAYER, _PER_ACTIVATION, _ONCE = 6, 19, 49
_LARGE = 1 << 14
"""Entries of a layer's weights from which those that are not zero are counted in an operation of its own."""


@dataclass(frozen=True, slots=True)
class Activation:
    """Outputs of layers of one kind: entries of each, how many there are, and whether units may fall silent."""

    entries: int
    count: int
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A model, as far as one rank holds it.

    Attributes:
        weights: Parameters of layers of one kind, as this rank holds them, and how many such layers there are.
        activations: Outputs of these layers and of activation modules.
        width: Bytes of a parameter and of an entry of an output.
    """

    weights: tuple[tuple[int, int], ...]
    activations: tuple[Activation, ...]
    width: int = 4

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(size * count for size, count in self.weights)

    @property
    def layers(self) -> int:
        """Layers with parameters."""
        return sum(count for _, count in self.weights)

    @property
    def entries(self) -> float:
        """Entries of the weights that are compared one by one."""
        compared = sum(min(size, ENTRIES_PER_LAYER) * count for size, count in self.weights)
        most = ENTRIES_PER_LAYER * min(1.0, MOST_ENTRIES / compared)
        return sum(count * (size if size <= most else size / (size // most + 1)) for size, count in self.weights)


def bytes_read(model: Model) -> float:
    """Return the bytes that the statistics of a sampled step read with an optimizer of the Adam family."""
    outputs = sum(
        each.count * (each.entries * model.width * (1 + each.silent) + _PART_PASSES * 4 * min(each.entries, PIECE))
        for each in model.activations
    )
    return 3 * model.parameters * model.width + _ENTRY_PASSES * 4 * model.entries + outputs


def operations(model: Model) -> int:
    """Return the operations on the device; one on all parameters counts once, however many kernels it launches."""
    modules = sum(each.count for each in model.activations) - model.layers
    large = sum(count for size, count in model.weights if size > _LARGE)
    outputs = sum(each.count for each in model.activations)
    conversions = 2 * model.layers + outputs if model.width < 4 else 0  # of half precision
    return _PER_LAYER * model.layers + large + conversions + _PER_ACTIVATION * modules + _ONCE


def simulated_stall(
    ranks: int, *, step: float, cost: float, jitter: float, together: bool, steps: int = 2000, every: int = 50
) -> float:
    """Return the share of the time that sampling adds to a job whose ranks wait for each other in each step.

    Args:
        ranks: Number of ranks.
        step: Seconds of a step.
        cost: Seconds that a sample takes on a rank.
        jitter: Standard deviation of both, relative.
        together: Whether all ranks sample the same steps; else each has steps of its own.
        steps: Steps to simulate.
        every: Steps from one sample of a rank to the next.
    """
    random = np.random.default_rng(0)
    own = np.zeros(ranks, int) if together else random.integers(0, every, ranks)
    plain = watched = 0.0
    for number in range(steps):
        seconds = step * np.abs(1 + jitter * random.standard_normal(ranks))
        samples = np.where((number + own) % every == 0, cost * np.abs(1 + jitter * random.standard_normal(ranks)), 0)
        plain += float(seconds.max())
        watched += float((seconds + samples).max())
    return watched / plain - 1


def _transformer(layers: int, hidden: int, inner: int, tokens: int, vocabulary: int, shards: int) -> Model:
    """Return a decoder with seven matrices and two norms in each of its blocks, sharded over so many ranks."""
    sizes = (
        (hidden * hidden, 4 * layers),
        (hidden * inner, 3 * layers),
        (hidden, 2 * layers + 1),
        (vocabulary * hidden, 2),
    )
    outputs = (
        Activation(tokens * hidden, 7 * layers + 2),
        Activation(tokens * inner, 2 * layers),
        Activation(tokens * inner, layers),  # SiLU
        Activation(tokens * vocabulary, 1),
    )
    return Model(tuple((size // shards, count) for size, count in sizes), outputs, 2)


MODELS: dict[str, Model] = {
    "7 B on 64 GPUs": _transformer(32, 4096, 11008, 4096, 32000, 64),
    "70 B on 1,024 GPUs": _transformer(80, 8192, 28672, 4096, 128256, 1024),
}


def tables() -> str:
    """Return the tables of `docs/costs.md`."""
    rows = ["| model | GB read by a rank | operations |", "| --- | --- | --- |"]
    rows += [f"| {name} | {bytes_read(m) / 1e9:.1f} | {operations(m):,} |" for name, m in MODELS.items()]
    rows += ["", "| ranks | same steps | steps of their own |", "| --- | --- | --- |"]
    for ranks in (1, 8, 64, 1024):
        shares: Sequence[float] = [
            simulated_stall(ranks, step=1.0, cost=0.5, jitter=0.05, together=together) for together in (True, False)
        ]
        rows.append(f"| {ranks:,} | {shares[0]:.1%} | {shares[1]:.1%} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(tables())
