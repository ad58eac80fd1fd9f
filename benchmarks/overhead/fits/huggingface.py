"""Hugging Face transformers; its own logging has the norm of all gradients, in each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from numpy.typing import NDArray

from autotrainer.integrations.huggingface import AutoTrainerCallback
from benchmarks.overhead.library_fits import STEPS, Gate
from benchmarks.overhead.models import pytorch_model

__all__ = ["build"]


class _WithLoss(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.loss = network, torch.nn.CrossEntropyLoss()

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.network(x)
        return {"loss": self.loss(logits, labels), "logits": logits}


class _Batches(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        self._batch = batch

    def __iter__(self) -> Any:
        while True:
            yield self._batch


def build(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    """Return the network and the training."""

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            gate.pass_through()
            control.should_training_stop = gate.stopped
            return control

    torch.manual_seed(0)
    module = _WithLoss(pytorch_model(model))
    logs = setting == "huggingface_grad_norm"
    arguments = transformers.TrainingArguments(
        str(folder / "huggingface"),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_grad_norm=1e9 if logs else 0.0,
        logging_strategy="steps" if logs else "no",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    batch = {"x": torch.from_numpy(x), "labels": torch.from_numpy(y)}
    callbacks = [*([AutoTrainerCallback()] if setting == "huggingface_callback" else []), Clock()]

    def fit() -> None:
        torch.set_num_threads(1)  # of this thread
        trainer = transformers.Trainer(
            module, arguments, train_dataset=_Batches(batch), data_collator=lambda rows: rows[0], callbacks=callbacks
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()

    return module.network, fit
