"""The PyTorch backend: each method delegates to a module that is imported when it is needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from autotrainer.adapter.backend import Backend, OpenWatch
from autotrainer.adapter.loop import LoopTrainer
from autotrainer.adapter.observer import Observer, Recorder
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.adapter.spec import FitRequest, LoopRequest
from autotrainer.adapter.trainer import Trainer
from autotrainer.edits import Edit
from autotrainer.records.signals import LayerInfo, Observation
from autotrainer.records.task import TaskContext

__all__ = ["PyTorchBackend"]


class PyTorchBackend(Backend):
    """Adapter for models of PyTorch."""

    name = "pytorch"
    package = "torch"

    def accepts(self, model: Any) -> bool:
        """Return whether it is a `torch.nn.Module`."""
        framework = sys.modules.get("torch")
        return framework is not None and isinstance(model, framework.nn.Module)

    def layers(self, model: Any) -> tuple[LayerInfo, ...]:
        """Return the layers, in forward order as far as it is known without running the model."""
        from autotrainer.backends.pytorch.model.describe import layers

        return layers(model)

    def unwrap(self, model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return model and optimizers without the wrappers of accelerate and Lightning."""
        from autotrainer.backends.pytorch.runtime.wrappers import unwrap_model, unwrap_optimizer

        if isinstance(optimizer, Sequence | set) and not isinstance(optimizer, str):
            return unwrap_model(model), [unwrap_optimizer(each) for each in optimizer]
        return unwrap_model(model), unwrap_optimizer(optimizer)

    @property
    def rank(self) -> int:
        """Number of this process in the default process group."""
        from torch import distributed

        from autotrainer.backends.pytorch.ranks.processes import several_ranks

        return distributed.get_rank() if several_ranks() else 0

    def check_watched(self, model: Any, optimizer: Any, loss_fn: Any) -> None:
        """Check that the objects belong together."""
        from autotrainer.backends.pytorch.watching.watched_objects import check_objects

        check_objects(model, optimizer, loss_fn)

    def observe(self, model: Any, optimizer: Any, loss_fn: Any, monitor: Recorder, **plan: Any) -> Observer:
        """Attach to a training that the user runs."""
        from autotrainer.backends.pytorch.watching.attach import observe

        return observe(model, optimizer, loss_fn, monitor, **plan)

    def watch_everything(self, open_watch: OpenWatch) -> AbstractContextManager[None]:
        """Watch each training from its second step on."""
        from autotrainer.backends.pytorch.scripts.watch_everything import watch_everything

        return watch_everything(open_watch)

    def probe(
        self, model: Any, data: Any, loss: Any, optimizer: Any, batches: int
    ) -> tuple[TaskContext, list[Observation]]:
        """Observe a model before training."""
        from autotrainer.backends.pytorch.watching.probe import probe

        return probe(model, data, loss, optimizer, batches)

    def probed(self, model: Any, data: Any) -> ProbedModel | None:
        """Return a copy of a model with the first rows of data, for probes."""
        from autotrainer.backends.pytorch.watching.probe import probed_data

        return probed_data(model, data)

    def trainer(self, request: FitRequest) -> Trainer:
        """Prepare managed trainings."""
        from autotrainer.backends.pytorch.training.trainer import make_trainer

        return make_trainer(request)

    def loop(self, request: LoopRequest) -> LoopTrainer:
        """Prepare trainings in the user's own loop."""
        from autotrainer.backends.pytorch.loop.loop_trainer import make_loop

        return make_loop(request)

    def apply(self, edits: Sequence[Edit], model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return a fresh model and an optimizer with the edits applied."""
        from autotrainer.backends.pytorch.surgery.model_editor import apply_edits

        return apply_edits(edits, model, optimizer)

    def patch(self, edit: Edit, edits: Sequence[Edit] = ()) -> list[str]:
        """Return lines of PyTorch code."""
        from autotrainer.backends.pytorch.patches.patch import patch

        return patch(edit, edits)

    def process_settings(self) -> dict[str, Any]:
        """Return the settings of this process that a training in another one needs to give the same result."""
        from autotrainer.backends.pytorch.runtime.process_settings import process_settings

        return process_settings()

    def adopt_settings(self, values: Mapping[str, Any]) -> None:
        """Apply the settings of another process."""
        from autotrainer.backends.pytorch.runtime.process_settings import adopt_settings

        adopt_settings(values)

    def preserve_random_state(self) -> AbstractContextManager[None]:
        """Return a context manager that restores every random state that managed trainings change."""
        from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state

        return preserve_random_state()

    def save_model(self, model: Any, folder: Path) -> Path:
        """Write a trained model to a folder."""
        from autotrainer.backends.pytorch.training.trainer import save_model

        return save_model(model, folder)
