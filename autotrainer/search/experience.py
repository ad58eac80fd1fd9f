"""What repairs have done before: an average over benchmark trainings that corrects what each repair says of itself.

The table is installed with the package. `python -m benchmarks experience` makes it from repairs that were run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from autotrainer import registry
from autotrainer.edits import Edit, SetLearningRate, SwapOptimizer
from autotrainer.errors import ConfigError

__all__ = ["FILE", "Experience", "Outcome", "declared_effects", "variant"]

FILE = "experience.json"
"""Name of the table in this package."""

_FORMAT = 1
_DECADES = 3
"""Powers of ten up to which changes of the learning rate are told apart."""


class Outcome(NamedTuple):
    """What one variant of a repair has done against one problem.

    Attributes:
        programs: Number of programs in which it was tried; all trainings of one program count once.
        gain: Sum over these programs of the share of the reachable gain that it brought, each in [0, 1].
    """

    programs: float
    gain: float


class Experience:
    """Corrects the effect that a repair declares by what it has done in other programs.

    The declared effect counts like ``weight`` programs (the mean of a beta distribution with that many prior
    observations). Variants of a repair, such as two optimizers, borrow from each other: what the others have done
    corrects the declared effect, and what the variant itself has done corrects the result.

    Args:
        outcomes: Outcomes by problem and variant.
        weight: Number of programs that a declared effect counts for; above 0.
    """

    def __init__(self, outcomes: Mapping[str, Mapping[str, Outcome]], weight: float) -> None:
        self._outcomes, self._weight = outcomes, weight

    @classmethod
    @cache
    def installed(cls) -> Experience:
        """Return the experience that is installed with the package.

        Raises:
            ConfigError: If the file is missing or can't be read.
        """
        try:
            return cls.parse((files("autotrainer.search") / FILE).read_text("utf-8"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(f"{FILE} is not a table of repairs ({error!r}): install autotrainer again") from error

    @classmethod
    def parse(cls, text: str) -> Experience:
        """Return the experience of a file's text."""
        stored = json.loads(text)
        if stored["format"] != _FORMAT:
            raise ValueError(f"format {stored['format']}")
        outcomes = {
            problem: {name: Outcome(float(n), float(gain)) for name, (n, gain) in variants.items()}
            for problem, variants in stored["outcomes"].items()
        }
        return cls(outcomes, float(stored["weight"]))

    def text(self, made: Mapping[str, object]) -> str:
        """Return the text of a file.

        Args:
            made: Where the outcomes come from.
        """
        outcomes = {
            problem: {name: [round(n, 3), round(gain, 3)] for name, (n, gain) in sorted(variants.items())}
            for problem, variants in sorted(self._outcomes.items())
        }
        stored = {"format": _FORMAT, "made": made, "weight": float(self._weight), "outcomes": outcomes}
        return json.dumps(stored, indent=1) + "\n"

    def effect(self, problem: str, name: str, declared: float) -> float:
        """Return the expected effect of a variant of a repair, in [0, 1].

        Args:
            problem: The problem that it answers.
            name: Its `variant`.
            declared: The effect that the repair declares.
        """
        variants = self._outcomes.get(problem, {})
        repair = name.split(" ")[0]
        others = [outcome for other, outcome in variants.items() if other != name and other.split(" ")[0] == repair]
        return self._updated(self._updated(declared, others), [variants[name]] if name in variants else [])

    def _updated(self, effect: float, outcomes: Sequence[Outcome]) -> float:
        programs, gain = (math.fsum(column) for column in zip(*outcomes, strict=True)) if outcomes else (0.0, 0.0)
        return (self._weight * effect + gain) / (self._weight + programs)


def declared_effects() -> dict[str, Mapping[str, float]]:
    """Return the effect that each repair in force declares against each of its problems, by name."""
    return {repair.name: repair.fixes for repair in registry.repairs()}


def variant(repair: str, edits: Sequence[Edit], learning_rate: float) -> str:
    """Return the name of a repair with the choices that tell its proposals apart: ``swap_optimizer adam``.

    Args:
        repair: Name of the repair.
        edits: The edits that it proposes.
        learning_rate: The learning rate of the training that they change; a change of it counts in powers of ten.
    """
    choices = [value for edit in edits for value in _choices(edit)]
    if not any(isinstance(edit, SwapOptimizer) for edit in edits):
        for edit in edits:
            if isinstance(edit, SetLearningRate) and 0 < learning_rate < math.inf:
                decades = round(math.log10(edit.value) - math.log10(learning_rate))
                choices.append(f"rate 1e{max(-_DECADES, min(_DECADES, decades)):+d}")
    return " ".join([repair, *choices])


def _choices(edit: Edit) -> list[str]:
    values = (getattr(edit, field.name) for field in fields(edit))
    return [value for value in values if isinstance(value, str)]
