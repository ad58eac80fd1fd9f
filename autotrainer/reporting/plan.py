"""Repair plans: the edits that a repair is made of, readable as a patch and repeatable on a fresh model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from autotrainer import registry
from autotrainer.edits import Edit, edit_from_dict
from autotrainer.edits.base import shorten
from autotrainer.errors import AutotrainerError, ConfigError, nearest
from autotrainer.html_fragment import card, line, preformatted
from autotrainer.records.untrusted_files import read_regular, unique_keys
from autotrainer.reporting.outcome import PatchStep
from autotrainer.reporting.patch import patch_steps, patch_text

__all__ = ["RepairPlan", "load_plan"]

_FORMAT = 1
_LARGEST_START = 10**9
_LARGEST_FILE = 16 * 2**20
"""Largest file that is read, in bytes: parsed, JSON takes up to some twenty times its size in memory."""


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair changes in a training.

    Attributes:
        repairs: Names of the repairs, in the order in which they were found.
        edits: The edits, with numbers that were fitted on the training data filled in.
        problems: Names of the problems that it fixes.
        framework: Name of the backend (``pytorch``, ``keras3``) that its lines of code are for.
        layers: Names of the layers of the model it was made for, in forward order; empty if unknown. Keras continues
            the numbers in layer names from model to model, so that a fresh model's layers are matched by position.
        start: Epoch, counted from 0, at whose start the edits take effect; earlier epochs stay unchanged.
        places: File and line of the user's own code that a problem points to, by its name, where known.

    Raises:
        ConfigError: If a value is of the wrong type.
    """

    repairs: tuple[str, ...]
    edits: tuple[Edit, ...]
    problems: tuple[str, ...] = ()
    framework: str = "pytorch"
    layers: tuple[str, ...] = field(default=(), compare=False)
    start: int = 0
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in ("repairs", "problems", "layers"):
            values = getattr(self, name)
            _check(name, values, _all(values, str), "a list of names")
            object.__setattr__(self, name, tuple(map(str.__str__, values)))
        _check("edits", self.edits, _all(self.edits, Edit), "a list of edits")
        object.__setattr__(self, "edits", tuple(self.edits))
        _check("framework", self.framework, isinstance(self.framework, str), "the name of a backend")
        object.__setattr__(self, "framework", str.__str__(self.framework))
        _check("start", self.start, _is_epoch(self.start), "an epoch >= 0")
        texts = isinstance(self.places, Mapping) and _all([*self.places, *self.places.values()], str)
        _check("places", self.places, texts, "a mapping from names of problems to places in the code")
        object.__setattr__(self, "places", {str.__str__(k): str.__str__(v) for k, v in self.places.items()})

    @property
    def changes(self) -> tuple[str, ...]:
        """What a user must know first: which of input, output, loss, data, length, architecture, frozen layers it
        changes."""
        order = ("input", "output", "loss", "data", "length", "architecture", "frozen layers")
        affected = {edit.affects for edit in self.edits}
        return tuple(name for name in order if name in affected)

    def __str__(self) -> str:
        return patch_text(
            self.edits,
            self.framework,
            problems=self.problems,
            places=self.places,
            changes=self.changes,
            start=self.start,
        )

    @property
    def steps(self) -> tuple[PatchStep, ...]:
        """The changes of ``str(plan)``, one by one: in words, and as lines of code."""
        steps = patch_steps(self.edits, self.framework, self.start)
        return tuple(PatchStep(words, tuple(lines)) for words, lines in steps)

    def _repr_html_(self) -> str:
        """Return the plan as a notebook shows it."""
        problems = f"fixes {', '.join(self.problems)}" if self.problems else "repair plan"
        return card([line(problems, quiet=True), preformatted(str(self))])

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
            ConfigError: If it is not a plan, or holds a value that is not accepted.
        """
        version = values.get("autotrainer_plan") if isinstance(values, Mapping) else None
        if type(version) is not int or version != _FORMAT:
            raise ConfigError(f"this is not a repair plan of format {_FORMAT}: give what plan.to_json() returned")
        keys = ("autotrainer_plan", *(field.name for field in fields(cls)))
        for name in values:
            if name not in keys:
                raise ConfigError(f"the repair plan has no {shorten(name)}: {nearest(shorten(name), keys)}")
        missing = [name for name in ("repairs", "edits", "problems", "framework") if name not in values]
        if missing:
            raise ConfigError(f"the repair plan is incomplete: it has no {', '.join(missing)}")
        _check("edits", values["edits"], isinstance(values["edits"], list | tuple), "a list of edits")
        return cls(
            _as_tuple(values["repairs"]),
            tuple(map(edit_from_dict, values["edits"])),
            _as_tuple(values["problems"]),
            values["framework"],
            _as_tuple(values.get("layers", ())),
            values.get("start", 0),
            values.get("places", {}),
        )

    def apply(self, model: Any, optimizer: Any = None) -> tuple[Any, Any]:
        """Repeat the plan on a fresh model.

        What belongs to the loop rather than to model or optimizer (loss, batch size, clipping in PyTorch, early
        stopping) can't be applied here: `str` of the plan has the lines for it.

        Apply a plan with a `start` at the beginning of that epoch, to the model and optimizer that are being trained.

        A plan made for the other framework can be applied if it names no layers, or only layers that the model has by
        the same names.

        Args:
            model: A fresh model of the kind the plan was made for. Don't use it afterwards.
            optimizer: PyTorch: the optimizer over its parameters, if there is one.

        Returns:
            The changed model and optimizer.

        Raises:
            InputError: If the model is not of a supported framework.
            ConfigError: If an edit does not fit the model, or names layers of another framework's model. Model and
                optimizer then stay as they are.
        """
        backend = registry.backend_of(model)
        names = tuple(layer.name for layer in backend.layers(model))
        edits = self.edits
        if backend.name != self.framework:
            self._check_names(names, backend.name)
        else:
            edits = tuple(self._renamed(edit, names) for edit in self.edits)
        try:
            return backend.apply(edits, model, optimizer)
        except AutotrainerError:
            raise
        except Exception as error:
            raise ConfigError(f"the plan can't be applied to this {type(model).__name__}: {error}") from error

    def _check_names(self, names: tuple[str, ...], framework: str) -> None:
        """Check that a model of another framework has all layers that are named: positions need not correspond.

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
        layers = getattr(edit, "layers", ())
        if len(names) != len(self.layers) or set(names) == set(self.layers) or not layers:
            return edit
        new = dict(zip(self.layers, names, strict=True))
        return replace(edit, layers=tuple(new.get(name, name) for name in layers))  # type: ignore[call-arg]


def _check(name: str, value: Any, accepted: bool, expected: str) -> None:
    if not accepted:
        raise ConfigError(f"`{name}` of a repair plan must be {expected}, not {shorten(value)}")


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_epoch(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_START


def load_plan(path: str | Path) -> RepairPlan:
    """Read a plan that was saved as JSON. Nothing in it is executed or imported.

    Args:
        path: A regular file of at most 16 MiB: enough for the mean and standard deviation of 250,000 inputs.

    Raises:
        ConfigError: If the file can't be read or does not hold a plan.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"load_plan takes the path of a file, not {shorten(path)}")
    try:
        values = json.loads(read_regular(path, _LARGEST_FILE).decode("utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"can't read a repair plan from {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a repair plan: give what plan.to_json() returned")
    try:
        return RepairPlan.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
