"""The adapter for Keras: each method is implemented in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from autotrainer.adapter.backend import Backend, OpenWatch
from autotrainer.adapter.observer import Observer, Recorder
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.adapter.spec import FitRequest
from autotrainer.adapter.trainer import Trainer
from autotrainer.edits import Edit
from autotrainer.records.signals import LayerInfo, Observation
from autotrainer.records.task import TaskContext

__all__ = ["KerasBackend"]


class KerasBackend(Backend):
    """Adapter for models of Keras."""

    name = "keras3"
    package = "keras"

    def accepts(self, model: Any) -> bool:
        """Return whether it is a `keras.Model`."""
        framework = sys.modules.get("keras")
        return framework is not None and isinstance(model, framework.Model)

    def layers(self, model: Any) -> tuple[LayerInfo, ...]:
        """Return the layers, in forward order as far as that is known without running the model."""
        from autotrainer.backends.keras3.model.describe import layers

        return layers(model)

    def check_watched(self, model: Any, optimizer: Any, loss_fn: Any) -> None:
        """Check that the objects belong together."""
        from autotrainer.backends.keras3.watching.observer import check_objects

        check_objects(model, optimizer, loss_fn)

    def observe(self, model: Any, optimizer: Any, loss_fn: Any, monitor: Recorder, **plan: Any) -> Observer:
        """Attach to a training that the user runs."""
        from autotrainer.backends.keras3.watching.observer import observe

        return observe(model, optimizer, loss_fn, monitor, **plan)

    def watch_everything(self, open_watch: OpenWatch) -> AbstractContextManager[None]:
        """Watch each ``fit`` and ``train_on_batch``."""
        from autotrainer.backends.keras3.watching.watch_everything import watch_everything

        return watch_everything(open_watch)

    def probe(
        self, model: Any, data: Any, loss: Any, optimizer: Any, batches: int
    ) -> tuple[TaskContext, list[Observation]]:
        """Run forward passes on a few batches before training."""
        from autotrainer.backends.keras3.watching.probe import probe

        return probe(model, data, loss, optimizer, batches)

    def probed(self, model: Any, data: Any) -> ProbedModel | None:
        """Return a copy of a model with the first rows of data, for probes."""
        from autotrainer.backends.keras3.watching.probe import probed_data

        return probed_data(model, data)

    def trainer(self, request: FitRequest) -> Trainer:
        """Prepare managed trainings."""
        from autotrainer.backends.keras3.training.trainer import make_trainer

        return make_trainer(request)

    def apply(self, edits: Sequence[Edit], model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return a fresh model and an optimizer with the edits applied."""
        from autotrainer.backends.keras3.surgery.surgery import apply_edits

        return apply_edits(edits, model, optimizer)

    def patch(self, edit: Edit, edits: Sequence[Edit] = ()) -> list[str]:
        """Return lines of Keras code."""
        from autotrainer.backends.keras3.patches.patch import patch

        return patch(edit, edits)

    def process_settings(self) -> dict[str, Any]:
        """Return the settings that another process needs to reproduce the trainings of this one."""
        from autotrainer.backends.keras3.runtime.process_settings import process_settings

        return process_settings()

    def adopt_settings(self, values: Mapping[str, Any]) -> None:
        """Apply the settings of another process."""
        from autotrainer.backends.keras3.runtime.process_settings import adopt_settings

        adopt_settings(values)

    def preserve_random_state(self) -> AbstractContextManager[None]:
        """Restore every random state that managed trainings change."""
        from autotrainer.backends.keras3.runtime.random_state import preserve_random_state

        return preserve_random_state()

    def save_model(self, model: Any, folder: Path) -> Path:
        """Write a trained model to a folder."""
        from autotrainer.backends.keras3.runtime.saving import save_model

        return save_model(model, folder)
