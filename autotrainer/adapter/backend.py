"""The interface of a backend. It is checked by the contract tests in `autotrainer.testing`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from autotrainer.adapter.loop import LoopTrainer
from autotrainer.adapter.observer import Observer, Recorder
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.adapter.spec import FitRequest, LoopRequest
from autotrainer.adapter.trainer import Trainer
from autotrainer.edits import Edit
from autotrainer.errors import InputError
from autotrainer.records.signals import LayerInfo, Observation
from autotrainer.records.task import TaskContext

__all__ = ["Backend", "OpenWatch"]

OpenWatch = Callable[..., Recorder | None]
"""Called with model, optimizer and loss of a training that begins, and the recorders of watched trainings that it turns
out to consist of, if any; see `Backend.watch_everything`."""


class Backend(ABC):
    """The adapter of one framework."""

    name: ClassVar[str]
    """Name of the backend (``pytorch``, ``keras3``)."""
    package: ClassVar[str]
    """Top-level package of the framework (``torch``, ``keras``): in `sys.modules` once the user has imported it."""

    @abstractmethod
    def accepts(self, model: Any) -> bool:
        """Return whether a model belongs to this framework, without importing it: look it up in `sys.modules`."""

    @abstractmethod
    def layers(self, model: Any) -> tuple[LayerInfo, ...]:
        """Return the layers of a model, in forward order as far as it is known without running the model."""

    def unwrap(self, model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return model and optimizer without what other libraries have wrapped around them; by default as they are."""
        return model, optimizer

    @property
    def rank(self) -> int:
        """Number of this process in a distributed training: 0 for the first one, and for an only one.

        Where it is not 0, the first process may report for this one, too: until `Recorder.release` or `Recorder.follow`
        is called, this one writes no log.
        """
        return 0

    def check_watched(self, model: Any, optimizer: Any, loss_fn: Any) -> None:
        """Check objects that `observe` will be called with; changes nothing.

        Raises:
            InputError: If they do not belong together.
        """
        return None

    @abstractmethod
    def observe(self, model: Any, optimizer: Any, loss_fn: Any, monitor: Recorder, **plan: Any) -> Observer:
        """Attach to a training that the user runs.

        Args:
            model: The model.
            optimizer: Optimizer, sequence of optimizers, or None.
            loss_fn: Loss module or callable, or None.
            monitor: Receives the measurements: `Recorder.begin`, `Recorder.record`, `Recorder.advance`,
                `Recorder.end_epoch`.
            **plan: ``epochs`` and ``steps``, the planned length, each a number or None.

        Returns:
            The attached observer; closing it detaches everything.

        Raises:
            InputError: If the objects do not belong together.
        """

    def watch_everything(self, open_watch: OpenWatch) -> AbstractContextManager[None]:
        """Return a context manager in which every training of this framework is watched automatically.

        The trainings must not be changed, and no exception of the monitor may reach them.

        Args:
            open_watch: Called with model, optimizer and loss, as in `observe`, when a training begins. Returns the
                monitor, or None for a training that must not be watched.
        """
        return nullcontext()

    @abstractmethod
    def probe(
        self, model: Any, data: Any, loss: Any, optimizer: Any, batches: int
    ) -> tuple[TaskContext, list[Observation]]:
        """Inspect a model before training by forward passes on a few batches; changes nothing.

        Args:
            model: The model.
            data: (x, y), loader or data set of the framework.
            loss: Loss, or None.
            optimizer: Optimizer, or None.
            batches: Maximum number of batches to read.

        Returns:
            The context, and one observation per batch, without gradients.
        """

    def probed(self, model: Any, data: Any) -> ProbedModel | None:
        """Return a copy of a model with the first rows of data, for probes: see `autotrainer.diagnostics.probes`.

        Args:
            model: The model; it stays as it is, as do all random states.
            data: The data, as `probe` takes them.

        Returns:
            The copy; None, as by default, if the backend supports no probes, or the data hold no batch.

        Raises:
            NotProbedError: If the model can't be copied.
        """
        return None

    @abstractmethod
    def trainer(self, request: FitRequest) -> Trainer:
        """Prepare managed trainings.

        Raises:
            InputError: If model, data, loss, optimizer and options can't be used together.
        """

    def loop(self, request: LoopRequest) -> LoopTrainer:
        """Prepare trainings in the user's own loop.

        Raises:
            InputError: If the backend does not support user loops, or the objects can't be used together.
        """
        raise InputError(
            f"Loop takes PyTorch models: use autotrainer.fit or watch for a {type(request.model).__name__}"
        )

    @abstractmethod
    def apply(self, edits: Sequence[Edit], model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return model and optimizer with the edits applied; the objects passed in must not be used any more.

        Raises:
            ConfigError: If an edit can't be applied to this model. The objects passed in then stay as they are.
        """

    def patch(self, edit: Edit, edits: Sequence[Edit] = ()) -> Sequence[str]:
        """Return the lines of code to paste into the user's training script for an edit; none by default.

        Lines that are not comments run as they stand; what has to be done by hand is a comment. Nothing imports the
        framework: a plan can be printed where it is not installed.

        Args:
            edit: The edit.
            edits: All edits of its plan, where some are written together, such as a warm-up and a decay.

        Raises:
            ConfigError: If this backend does not know such an edit.
        """
        return ()

    def process_settings(self) -> dict[str, Any]:
        """Return settings that another process needs for equal results: the argument of `adopt_settings`."""
        return {}

    def adopt_settings(self, values: Mapping[str, Any]) -> None:
        """Apply the settings of another process, before the framework is used in this one."""
        return None

    @abstractmethod
    def preserve_random_state(self) -> AbstractContextManager[None]:
        """Return a context manager that restores every random state that managed trainings change."""

    @abstractmethod
    def save_model(self, model: Any, folder: Path) -> Path:
        """Write a trained model to files in an existing folder, in the framework's own format.

        `Result.save` gives a temporary folder, and moves the files to their place once all are complete.

        Args:
            model: The model.
            folder: The folder for ``model.pt`` or ``model.keras``.

        Returns:
            Path of the file with the model.

        Raises:
            InputError: If the model can't be saved.
            OSError: If a file can't be written; `Result.save` makes it an `InputError`.
        """
