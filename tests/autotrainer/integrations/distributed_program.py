"""A training in two processes: ``python distributed_program.py LIBRARY FOLDER``, by torchrun; Lightning starts its own.

A healthy training in single precision, then one in bfloat16 whose rate is far too high, and which may be stopped.
Each process writes what it saw to ``FOLDER/<name>-<rank>.json``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer

LIBRARY, FOLDER = sys.argv[1], Path(sys.argv[2])
EPOCHS, BATCH = 4, 16
torch.manual_seed(0)
X = torch.randn(128, 8)
Y = X[:, :3].argmax(dim=1)


class Model(nn.Module):
    """A network that returns its loss and its outputs, as the Trainer of Hugging Face takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": self.loss(logits, labels), "logits": logits}


def options(name: str) -> dict[str, Any]:
    """Return the options of the monitor."""
    return {"overhead": 1.0, "sinks": ["jsonl"], "log_dir": FOLDER / f"logs-{name}"}


def lightning(name: str, rate: float, *, bf16: bool) -> autotrainer.Monitor:
    """Train with PyTorch Lightning."""
    import lightning.pytorch as L

    from autotrainer.integrations.lightning import AutoTrainer

    class Lit(L.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model.loss(self.model.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=rate)

    callback = AutoTrainer(stop_on="error", **options(name))
    L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        precision="bf16-mixed" if bf16 else "32-true",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Lit(), DataLoader(TensorDataset(X, Y), batch_size=BATCH))
    assert callback.monitor is not None
    return callback.monitor


def huggingface(name: str, rate: float, *, bf16: bool) -> autotrainer.Monitor:
    """Train with the Trainer of Hugging Face."""
    import transformers

    from autotrainer.integrations.huggingface import AutoTrainerCallback

    callback = AutoTrainerCallback(stop_on="error", **options(name))
    arguments = transformers.TrainingArguments(
        str(FOLDER / "out"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        lr_scheduler_type="constant",
        optim="sgd",
        bf16=bf16,
        use_cpu=True,
        ddp_backend="gloo",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows: Any = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    transformers.Trainer(Model(), arguments, train_dataset=rows, callbacks=[callback]).train()
    assert callback.monitor is not None
    return callback.monitor


def accelerate(name: str, rate: float, *, bf16: bool) -> autotrainer.Monitor:
    """Train with accelerate."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from autotrainer.integrations.accelerate import watch

    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if bf16 else "no")
    plain = Model().net
    loader: Any = DataLoader(TensorDataset(X, Y), batch_size=BATCH)
    model, optimizer, loader = accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), lr=rate), loader)
    loss_fn = nn.CrossEntropyLoss()
    monitor = watch(accelerator, model, optimizer, loss_fn=loss_fn, epochs=EPOCHS, **options(name))
    with monitor:
        for _ in range(EPOCHS):
            for x, y in loader:
                optimizer.zero_grad()
                accelerator.backward(loss_fn(model(x), y))
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
            monitor.end_epoch()
    return monitor


def main() -> None:
    """Run both trainings."""
    os.chdir(FOLDER)
    for name, rate, bf16 in (("healthy", 0.1, False), ("faulty", 300.0, True)):
        monitor = globals()[LIBRARY](name, rate, bf16=bf16)
        history = monitor.history
        values = {
            "steps": history.step + 1,
            "epochs": history.epoch,
            "findings": {finding.problem: str(finding.severity) for finding in monitor.findings},
            "closed": monitor.closed,
            "grad_norms": history.scalar("grad_norm").tolist(),
            "facts": dict(monitor.context.asked),
        }
        rank = torch.distributed.get_rank()
        (FOLDER / f"{name}-{rank}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
