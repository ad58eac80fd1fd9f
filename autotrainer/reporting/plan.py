"""Repair plans: the edits that a repair is made of, readable as a patch and repeatable on a fresh model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotrainer import registry
from autotrainer.edits import Edit, edit_from_dict
from autotrainer.errors import ConfigError
from autotrainer.reporting.patches import describe

__all__ = ["RepairPlan", "load_plan"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair changes in a training.

    Attributes:
        repairs: Names of the repairs, in the order in which they were found.
        edits: The edits, with numbers that were fitted on the training data filled in.
        problems: Names of the problems that it answers.
        framework: Name of the backend (``pytorch``, ``keras3``) that its lines of code are for.
        layers: Names of the layers of the model it was made for, in forward order; empty if unknown. Keras numbers
            the layers of each new model on, so that a fresh one is told apart by position only.
        start: Epoch from whose beginning on the edits are in force; those before it run as given.
        places: File and line of the user's own code that a problem points to, by its name, where known.
    """

    repairs: tuple[str, ...]
    edits: tuple[Edit, ...]
    problems: tuple[str, ...] = ()
    framework: str = "pytorch"
    layers: tuple[str, ...] = field(default=(), compare=False)
    start: int = 0
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def changes(self) -> tuple[str, ...]:
        """What a user must know first: which of input, output, loss, data, length, architecture it changes."""
        order = ("input", "output", "loss", "data", "length", "architecture")
        said = {edit.says_first for edit in self.edits}
        return tuple(name for name in order if name in said)

    def __str__(self) -> str:
        return describe(
            self.edits,
            self.framework,
            problems=self.problems,
            places=self.places,
            changes=self.changes,
            start=self.start,
        )

    def to_json(self) -> str:
        """Return the plan as JSON, for `load_plan`."""
        values = {
            "autotrainer_plan": _FORMAT,
            "framework": self.framework,
            "problems": list(self.problems),
            "repairs": list(self.repairs),
            "edits": [edit.to_dict() for edit in self.edits],
            "layers": list(self.layers),
            "start": self.start,
            "places": dict(self.places),
        }
        return json.dumps(values, indent=2)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RepairPlan:
        """Rebuild a plan from the object that `to_json` wrote.

        Raises:
            ConfigError: If it is no plan.
        """
        if values.get("autotrainer_plan") != _FORMAT:
            raise ConfigError(f"this is no repair plan of format {_FORMAT}: give what plan.to_json() returned")
        try:
            return cls(
                tuple(values["repairs"]),
                tuple(edit_from_dict(edit) for edit in values["edits"]),
                tuple(values["problems"]),
                str(values["framework"]),
                tuple(values.get("layers", ())),
                int(values.get("start", 0)),
                {str(problem): str(place) for problem, place in dict(values.get("places", {})).items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"the repair plan is incomplete: {error!r}") from error

    def apply(self, model: Any, optimizer: Any = None) -> tuple[Any, Any]:
        """Repeat the plan on a fresh model.

        What belongs to the loop rather than to model or optimizer (loss, batch size, clipping in PyTorch, early
        stopping) can't be applied here: `str` of the plan has the lines for it.

        A plan with a `start` is to be applied at the beginning of that epoch, to the model and optimizer that train.

        A plan made for the other framework can be applied as far as it names no layers, or layers that the model
        has by the same names.

        Args:
            model: A fresh model of the kind the plan was made for. It is not to be used further.
            optimizer: PyTorch: the optimizer over its parameters, if there is one.

        Returns:
            The changed model and optimizer.

        Raises:
            InputError: If the model is of no known framework.
            ConfigError: If an edit does not fit the model, or names layers of another framework's model.
        """
        backend = registry.backend_of(model)
        names = tuple(layer.name for layer in backend.layers(model))
        if backend.name != self.framework:
            self._check_names(names, backend.name)
            return backend.apply(self.edits, model, optimizer)
        return backend.apply([self._renamed(edit, names) for edit in self.edits], model, optimizer)

    def _check_names(self, names: tuple[str, ...], framework: str) -> None:
        """Check that a model of another framework has all layers that are named: position says nothing there.

        Raises:
            ConfigError: If one is missing.
        """
        for edit in self.edits:
            for name in getattr(edit, "layers", ()):
                if name not in names:
                    known = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                    raise ConfigError(
                        f"this plan was made for a model of {self.framework}, and its {type(edit).__name__} names "
                        f"layer {name!r}, which this model of {framework} does not have (it has {known}): apply it to "
                        f"a model of {self.framework}, or let autotrainer.fit plan for this one"
                    )

    def _renamed(self, edit: Edit, names: tuple[str, ...]) -> Edit:
        """Return an edit for a model whose layers have other names, one for one."""
        named = getattr(edit, "layers", ())
        if len(names) != len(self.layers) or set(names) == set(self.layers) or not named:
            return edit
        new = dict(zip(self.layers, names, strict=True))
        return replace(edit, layers=tuple(new.get(name, name) for name in named))  # type: ignore[call-arg]


def load_plan(path: str | Path) -> RepairPlan:
    """Read a plan that was saved as JSON.

    Raises:
        ConfigError: If the file can't be read or holds no plan.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't read a repair plan from {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no repair plan: give what plan.to_json() returned")
    return RepairPlan.from_dict(values)
