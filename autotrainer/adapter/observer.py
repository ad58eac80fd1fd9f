"""The observer that a backend attaches to a training, and the recorder that it reports to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Place

__all__ = [
    "EpochObserver",
    "HookHandle",
    "JointObserver",
    "LibraryObserver",
    "Locator",
    "Observer",
    "ProgressObserver",
    "Recorder",
    "Sampling",
]


class Observer(Protocol):
    """What a backend attaches to a watched training.

    An observer that refers to the user's objects has an attribute ``owned_by_training`` that is True: objects of the
    training own it, and the recorder refers to it weakly, so that it keeps no model alive that nobody else uses.
    """

    def log(self, *, loss: Any, outputs: Any, targets: Any, losses: Mapping[str, Any] | None = None) -> None:
        """Take what the user's loop reports through `Monitor.log`: tensors of the framework, or None.

        ``losses`` are the terms of the loss by name.
        """

    def close(self) -> None:
        """Detach everything from the user's objects."""


@runtime_checkable
class EpochObserver(Observer, Protocol):
    """An observer that also measures values of epochs."""

    def epoch_values(self) -> Mapping[str, float]:
        """Return values of the epoch that ends now, by name; values that the user's loop reports take precedence.

        ``evaluation_mode`` is 1 if the model was evaluated with dropout and batch normalization in training mode, 0 if
        in evaluation mode.
        """


@runtime_checkable
class JointObserver(Observer, Protocol):
    """An observer of a training of several processes, which may be watched together."""

    @property
    def agreed_stop(self) -> bool | None:
        """Whether all processes are to stop, as they have agreed; None if each decides by itself."""


@runtime_checkable
class ProgressObserver(Observer, Protocol):
    """An observer that keeps steps and losses until the next sample."""

    def report_progress(self) -> None:
        """Report the latest step, and the losses kept so far; synchronizes with the device."""


class HookHandle(Protocol):
    """Removes a hook."""

    def remove(self) -> None:
        """Remove it."""


@runtime_checkable
class LibraryObserver(Observer, Protocol):
    """An observer of a loop that belongs to a training library: its integration reports what can't be observed."""

    @property
    def wants_loss(self) -> bool:
        """Whether the loss of the current step is kept, so that `log` is worth its time."""

    def follow_loss(self, loss_fn: Any, call: tuple[tuple[Any, ...], dict[str, Any], Any] | None = None) -> None:
        """Follow a loss module that was unknown when this was attached.

        Args:
            loss_fn: The module.
            call: Its call in the present step: arguments, keyword arguments and result.
        """

    def hook_calls(self, module: Any, hook: Callable[..., None]) -> HookHandle:
        """Call ``hook(module, arguments, keyword_arguments, result)`` after each call of a module, until it is removed.

        Calls within compiled code are left out, and nothing is compiled anew for it.
        """

    def trace_parts(self) -> None:
        """Observe the layers themselves: the model is a container that is never called."""

    @property
    def steps(self) -> int:
        """Steps done."""

    def expect_accumulation(self) -> None:
        """Take several backward passes of a step for those of one batch, whose losses add up."""

    def expect_constant_rate(self) -> None:
        """Take the optimizer for one without a schedule: that of the library leaves the rate as it is."""

    def read_gradients(self, optimizer: Any) -> None:
        """Read the gradients of a step now, before the library clips them.

        Args:
            optimizer: The optimizer that is about to take them, with or without the library's wrapper.
        """

    def expect_epochs(self) -> None:
        """Leave the epochs to `Monitor.end_epoch`: neither loaders nor evaluations end one."""


@runtime_checkable
class Locator(Observer, Protocol):
    """An observer that locates the user's code."""

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is created, or the loss or step is called; empty if unknown."""


class Sampling(Protocol):
    """Decides which steps are measured, within the allowed overhead."""

    @property
    def next_step(self) -> int:
        """The earliest step that may be sampled; a cheap check before calling `due`."""

    @property
    def stopped(self) -> bool:
        """Whether no further step is sampled."""

    def stop(self) -> None:
        """Sample no further step."""

    def due(self, step: int) -> bool:
        """Return whether to sample the step that is about to begin (0-based)."""

    def skip(self, steps: int) -> None:
        """Renumber the steps: so many more have been taken before the first one that was asked about."""

    def expect(self, work: float, wall: float) -> None:
        """Expect the first sample to cost so many seconds of work, and by the wall clock."""

    def allows_extra(self) -> bool:
        """Return whether a step outside the schedule may be sampled."""

    def affordable(self, cost: float = 0.0) -> bool:
        """Return whether what is no sample, and is expected to take ``cost`` seconds, stays within the allowance."""

    @property
    def stopwatch(self) -> Stopwatch:
        """Measures all that monitoring does."""

    @property
    def evaluations(self) -> Stopwatch:
        """Measures the part of it that belongs to no sample."""

    def begin_sample(self) -> None:
        """Note that a sample begins: what `stopwatch` measures from now on is its cost, except for `evaluations`."""

    def end_sample(self) -> None:
        """Account for the sample that began with `begin_sample`."""


class Recorder(Protocol):
    """What a backend reports to: `autotrainer.Monitor`."""

    history: RunHistory
    context: TaskContext
    closed: bool
    interrupted: bool

    @property
    def sampler(self) -> Sampling:
        """Decides which steps are measured."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `STEP_COLUMNS` and `LAYER_COLUMNS` worth measuring."""

    @property
    def observer(self) -> Observer | None:
        """The attached observer; None before `attach` and after `close`."""

    def attach(self, observer: Observer) -> None:
        """Set the observer, which is closed with this recorder."""

    def begin(self, context: TaskContext) -> None:
        """Set the context of the run; its layers become the rows of the layer table."""

    def record(self, observation: Observation) -> None:
        """Record a sampled step. The arrays of the observation are not kept."""

    def learn(self, facts: Mapping[str, float], input_fields: tuple[str, ...] = ()) -> None:
        """Add facts about data and model, by name: see `autotrainer.records.facts.FACTS`."""

    @property
    def wants_probe(self) -> bool:
        """Whether the model is to be probed, and has not been yet."""

    def probe(self, make: Callable[[], ProbedModel | None]) -> None:
        """Probe a copy of the model, once: call it at the start of the training, outside `Sampling.stopwatch`."""

    def log(
        self, *, loss: Any = None, outputs: Any = None, targets: Any = None, losses: Mapping[str, Any] | None = None
    ) -> None:
        """Take what the backend can't observe itself: loss, outputs, targets and terms of the loss of a batch."""

    def record_losses(self, losses: Sequence[tuple[int, float]], terms: Mapping[str, float] | None = None) -> None:
        """Record (step, loss) pairs of steps that were not sampled; infinity for a loss that is not finite.

        ``terms`` are those of the first of these steps in which a term of the loss is not finite.
        """

    @property
    def has_error(self) -> bool:
        """Whether there was an error when the rules were evaluated last."""

    def release(self) -> None:
        """Write and report what was held, and all from now on."""

    def follow(self) -> None:
        """Report nothing: another process of the same training does."""

    def advance(self, step: int) -> None:
        """Set the latest step, sampled or not; cheap."""

    def count_epochs(self, ends: Sequence[int]) -> None:
        """Count epochs that ended with these steps, without values."""

    def end_epoch(self, **values: Any) -> None:
        """End an epoch, with its values by name."""

    def finish(self, *, finished: bool = True) -> None:
        """Mark the training as ended, regularly or interrupted."""

    def close(self) -> None:
        """Detach from the training."""

    def fail(self, part: str, error: BaseException) -> None:
        """Log, once, that a part failed; the training continues."""

    def fail_statistic(self, statistic: str, error: Exception) -> None:
        """Log and note, once, that one of `STATISTICS` could not be measured; all others go on."""

    def guard(self, part: str) -> AbstractContextManager[None, bool | None]:
        """Return a context manager that suppresses every `Exception` and reports it through `fail`."""
