"""What the callbacks of all libraries share: the monitor of one training, from its start to its end.

A callback inherits from its library's class and holds a `WatchSession`, to which it passes the library's events.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, Literal, cast
from weakref import WeakSet, ref

from autotrainer import registry
from autotrainer.adapter.observer import LibraryObserver
from autotrainer.api.watch import watch
from autotrainer.edits.base import Count, checked, shorten
from autotrainer.errors import ConfigError, InputError, StateError, nearest
from autotrainer.monitoring.guard import Guard
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.monitor import Monitor, as_number
from autotrainer.monitoring.run_state import read_state
from autotrainer.monitoring.sampler import Sampler
from autotrainer.output import logger
from autotrainer.records.findings import Finding, Severity
from autotrainer.sink import Sink

__all__ = ["StopOn", "WatchSession", "held_out_values", "numbers", "require"]

StopOn = Literal["error", "warning"]
"""Lowest severity of the findings that stop a training."""

_OPTIONS = frozenset(
    name for name, parameter in inspect.signature(watch).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY
) - {"loss_fn", "state"}
"""Options of `watch` that a callback takes."""

_HELD_OUT = "val|valid|validation|eval|evaluation|dev|test"
_PREFIX, _SUFFIX = re.compile(rf"^({_HELD_OUT})[_/.:-](.+)$"), re.compile(rf"^(.+)[_/.:-]({_HELD_OUT})$")


class MissingLibraryError(ConfigError, ImportError):
    """A library that an integration needs is not installed, or too old."""


def require(library: str, extra: str, *, distribution: str = "", minimum: str = "") -> ModuleType:
    """Import the library of an integration.

    Args:
        library: Its module.
        extra: The extra of this distribution that installs it.
        distribution: Name of its distribution, if that is not the module's.
        minimum: The oldest version that works; empty for any.

    Returns:
        The module.

    Raises:
        ConfigError: If it is not installed or too old; an `ImportError`, too.
    """
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name is None or library.partition(".")[0] != error.name.partition(".")[0]:
            raise  # something that the library itself needs
        raise MissingLibraryError(f"{library} is not installed: pip install 'autotrainer-monitor[{extra}]'") from None
    if minimum:
        name = distribution or library.partition(".")[0]
        try:
            installed = version(name)
        except PackageNotFoundError:  # a checkout
            return module
        if _numbers(installed) < _numbers(minimum):
            raise MissingLibraryError(
                f"{name} {installed} is too old, {minimum} is needed: pip install -U 'autotrainer-monitor[{extra}]'"
            )
    return module


class WatchSession:
    """Watches the training of one callback: made with the callback, started and closed with each training.

    Only `start` raises, and only for what the user can mend; all else is for the library's events, and safe to call at
    any time.

    Args:
        owner: Name of the callback, for messages.
        stop_on: Severity from which `should_stop` becomes true: ``"error"``, ``"warning"`` (errors, too), or None.
        **options: Options of `autotrainer.watch`; ``epochs`` and ``steps`` take precedence over the library's.

    Attributes:
        stopped_by: The finding that stops the training; None while it may go on.

    Raises:
        ConfigError: If an option is unknown or invalid.
    """

    def __init__(self, owner: str, *, stop_on: StopOn | None = None, **options: Any) -> None:
        if stop_on not in ("error", "warning", None):
            raise ConfigError(f'stop_on is "error", "warning" or None, not {shorten(stop_on)}')
        for name in options.keys() - _OPTIONS:
            raise ConfigError(f"{owner} has no option {name!r}: {nearest(name, (*_OPTIONS, 'stop_on'))}")
        # each training reads them
        options = {name: tuple(value) if isinstance(value, Iterator) else value for name, value in options.items()}
        if options.get("on_finding") is not None and not callable(options["on_finding"]):
            raise ConfigError(f"on_finding must be callable or None, not {shorten(options['on_finding'])}")
        Sampler(options.get("overhead", 0.01))
        for name, kind in (("epochs", Count | None), ("steps", Count | None), ("probe", bool)):
            if name in options:
                checked(name, options[name], kind)
        registry.check_sinks(options.get("sinks", ()))
        registry.make_rules(options.get("select"), options.get("ignore", ()), options.get("thresholds"))
        self._owner, self._options = owner, options
        self._settings = {**options, "stop_on": stop_on}
        self._severities = {"error": (Severity.ERROR,), "warning": (Severity.ERROR, Severity.WARNING)}.get(
            stop_on or "", ()
        )
        self._on_finding: Callable[[Finding], None] | None = options.pop("on_finding", None)
        self._monitor: Monitor | None = None
        self._model: Any = None
        self._latest_model: Callable[[], Any] = lambda: None
        self._arguments: dict[str, Any] = {}
        self._sinks: tuple[Sink, ...] = ()
        self._state: Mapping[str, Any] | None = None  # of a checkpoint, until a training starts
        self._raised = False  # whether a finding may stop the training
        self._ended_at: Hashable = None
        self._is_library_observer = self._resumed = False
        self.stopped_by: Finding | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the settings: a monitor belongs to one training, and a copy watches another one."""
        return _make_session, (self._owner, self._settings)

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the present or latest training; None before the first."""
        return self._monitor

    @property
    def observer(self) -> LibraryObserver | None:
        """The observer of the present training, if it is one of a library's loop; cheap enough for each step."""
        monitor = self._monitor if self._is_library_observer else None
        return None if monitor is None or monitor.closed else cast(LibraryObserver | None, monitor.observer)

    def end_resumed_epoch(self, done: int, values: Mapping[str, Any] | None = None) -> None:
        """End the epoch of the checkpoint that a training goes on from, if the library takes it for ended.

        A checkpoint after the last batch of an epoch is written before its end, which nobody tells after resuming.

        Args:
            done: Complete epochs, by the library's count.
            values: Metrics of the epoch by name, as for `end_epoch`.
        """
        if self._resumed and self._monitor is not None and self._monitor.history.epoch == done - 1:
            self.end_epoch(values)

    @property
    def running(self) -> bool:
        """Whether a training is being watched."""
        return self._monitor is not None and not self._monitor.closed

    def start(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        loss_fn: Any = None,
        epochs: int | None = None,
        steps: int | None = None,
        epochs_done: int = 0,
        steps_done: int = 0,
        position: Hashable = None,
        sinks: Iterable[Sink] = (),
    ) -> Monitor:
        """Watch a training that is about to begin: once the library has placed and wrapped everything.

        It goes on in the history of a checkpoint, if `load_state_dict` has got one, or in that of the latest training
        of this callback, if the library goes on with it: with the same model, at the position where that has ended.

        Args:
            model: The model itself, without the wrappers of the library.
            optimizer: The optimizers themselves, one or a sequence. Keras: None.
            loss_fn: The loss, or None where the library computes it elsewhere.
            epochs: Planned epochs of the whole run, or None.
            steps: Planned optimizer steps of the whole run, or None.
            epochs_done: Epochs that the library has counted before.
            steps_done: Optimizer steps that the library has counted before.
            position: Where the library's training is, by its own count; None or 0 at its start.
            sinks: Sinks of the callback itself, beside those of the user.

        Raises:
            StateError: If this callback, or another one, already watches a training of the model.
            InputError: If there is no optimizer, or model and optimizer don't belong together.
        """
        if self.running:
            raise StateError(
                f"this {self._owner} already watches a training: make one for each training that runs at the same time"
            )
        if any(other is not self and other.running and other._model is model for other in _sessions):
            raise StateError(f"two {self._owner} callbacks watch the same training: use one")
        if isinstance(optimizer, Sequence) and not optimizer:
            raise InputError(f"{self._owner} needs an optimizer, and this training has none: remove the callback")
        state, self._state = self._state, None
        previous = self._monitor
        same = previous is not None and self._latest_model() is model
        goes_on = same and bool(position) and position == self._ended_at
        if state is None and previous is not None and goes_on and previous.history.step >= 0:
            state = previous.state_dict()
        if state is None:  # steps that were not watched: what follows is the whole run
            epochs = None if epochs is None or epochs <= epochs_done else epochs - epochs_done
            steps = None if steps is None or steps <= steps_done else steps - steps_done
        self._resumed = state is not None
        self._arguments = {"optimizer": optimizer, "loss_fn": loss_fn, "epochs": epochs, "steps": steps}
        self._sinks = tuple(sinks)
        return self._watch(model, state)

    def end_epoch(self, values: Mapping[str, Any] | None = None) -> None:
        """End an epoch.

        Args:
            values: Metrics by name, those on held-out data as `held_out_values` names them; others than numbers are
                left out.
        """
        if self._monitor is not None and self.running:
            with self.guard():
                self._monitor.end_epoch(**numbers(values or {}))

    @property
    def should_stop(self) -> bool:
        """Whether a finding stops the training, by ``stop_on``; cheap enough for each step.

        The rules are evaluated as `watch` does; the finding is logged, and is `stopped_by` from then on.
        """
        if self._raised and self.stopped_by is None and self._monitor is not None:
            self._raised = False
            with self.guard():
                if _is_complete(self._monitor):
                    return False  # it ends as planned
                self.stopped_by = next((f for f in self._monitor.findings if f.severity in self._severities), None)
            if self.stopped_by is not None:
                self._monitor.note(f"the training is stopped at step {self._steps} by {self.stopped_by.problem}")
        return self.stopped_by is not None

    def close(self, exception: BaseException | None = None, *, position: Hashable = None) -> None:
        """Stop watching; closing twice does nothing.

        Args:
            exception: What has ended the training, or None if it has run to its end.
            position: Where the library's training is, as for `start`.
        """
        if self._monitor is not None and self.running:
            self._ended_at = position
            self._monitor.__exit__(None if exception is None else type(exception), exception, None)
        self._model, self._arguments, self._sinks = None, {}, ()
        _sessions.discard(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for the library's checkpoint: plain values for any format; empty before the training."""
        if self._monitor is not None and (self.running or self._monitor.history.step >= 0):
            return {"monitor": self._monitor.state_dict()}
        return {} if self._state is None else {"monitor": dict(self._state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of a checkpoint, for the training that starts next or has just started.

        What can't be read is logged, and a new history begins: a training never fails for it.
        """
        stored = state.get("monitor") if isinstance(state, Mapping) else None
        if stored is None:
            return
        try:
            read_state(stored)
        except InputError as error:
            logger.warning("%s: a new history begins, as %s", self._owner, error)
            return
        if self._monitor is not None and self.running and self._monitor.history.step < 0:
            self._monitor.abandon(finished=True)
            self._watch(self._model, stored)
        else:
            self._state = stored

    def guard(self) -> Guard:
        """Return a context manager that keeps exceptions of our own code from the training: the first is logged."""
        fail = self._log_failure if self._monitor is None else self._monitor.fail
        return Guard(fail, self._owner)

    # -- internal ---------------------------------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        return 0 if self._monitor is None else self._monitor.history.step + 1

    def _watch(self, model: Any, state: Mapping[str, Any] | None) -> Monitor:
        self.stopped_by, self._raised = None, state is not None  # findings that go on are not reported again
        options = {**self._arguments, **self._options}
        sinks = (*registry.check_sinks(options.pop("sinks", ())), *self._sinks)
        note = weak_method(self._note_finding)
        self._monitor = watch(model, **options, sinks=sinks, on_finding=note, state=state)
        # found out once: for a protocol, `isinstance` looks up each of its members
        self._is_library_observer = isinstance(self._monitor.observer, LibraryObserver)
        self._model, self._latest_model = model, ref(model)
        _sessions.add(self)
        return self._monitor

    def _note_finding(self, finding: Finding) -> None:
        self._raised |= finding.severity in self._severities
        if self._on_finding is not None:
            self._on_finding(finding)

    def _log_failure(self, part: str, error: BaseException) -> None:
        logger.warning("%s failed: %r", part, error)


_sessions: WeakSet[WatchSession] = WeakSet()
"""Those that have watched a training and are not closed."""


def _make_session(owner: str, settings: Mapping[str, Any]) -> WatchSession:
    return WatchSession(owner, **settings)


def _is_complete(monitor: Monitor) -> bool:
    """Return whether a training has reached its planned length, also where its last epoch is about to be ended."""
    history, context = monitor.history, monitor.context
    steps, epochs = context.planned_steps, context.planned_epochs
    if steps is None and epochs is not None and "epoch_batches" in context.asked:
        steps = int(epochs * context.asked["epoch_batches"])
    return history.step + 1 >= (steps or math.inf) or history.epoch >= (epochs or math.inf)


def held_out_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics on held-out data by the names that rules read: ``val_loss``, ``val_accuracy``, ….

    They are told by a part of their name at its beginning or end, such as ``valid/loss``, ``eval_loss`` or
    ``acc_val``. Training metrics of libraries are filtered and averaged: the losses of steps say more.

    Args:
        metrics: All metrics by name.
    """
    values: dict[str, Any] = {}
    for name, value in metrics.items():
        match = _PREFIX.match(str(name)) or _SUFFIX.match(str(name))
        if match:
            rest = match[2] if _PREFIX.match(str(name)) else match[1]
            values.setdefault(f"val_{'accuracy' if rest == 'acc' else rest}", value)
    return values


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers, as Python floats."""
    result = {}
    for name, value in values.items():
        with suppress(InputError):
            result[name] = as_number(name, value)
    return result


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()
