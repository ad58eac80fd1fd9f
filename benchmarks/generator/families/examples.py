"""Official examples of PyTorch and Keras in miniature: their networks, losses, optimizers and rates on small data.

They are known to work, so only the healthy source draws from them; no threshold is ever chosen on them.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.generator.families.examples_keras import KERAS
from benchmarks.generator.families.examples_parts import Example
from benchmarks.generator.families.examples_pytorch import PYTORCH
from benchmarks.generator.families.examples_tutorials import TUTORIALS
from benchmarks.generator.families.family import Draw, Family, training
from benchmarks.generator.recipes import Row

__all__ = ["EXAMPLES"]


def _family(examples: Mapping[str, Example]) -> Family:
    def recipe(kind: str, draw: Draw) -> tuple[Row, Row]:
        layers, loss, optimizer, data, options = examples[kind](draw)
        reached = options.pop("reached")
        return training(draw, layers, loss, optimizer, data, **options), {"task": "example", "reached": reached}

    return Family(recipe, tuple(examples), reserved=True)


EXAMPLES: Mapping[str, Family] = {
    "examples_pytorch": _family(PYTORCH),
    "examples_keras": _family(KERAS),
    "tutorials": _family(TUTORIALS),
}
"""Examples by the project or kind that they come from."""
