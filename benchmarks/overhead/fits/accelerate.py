"""Hugging Face accelerate; its own way to the norm of the gradients is the function that clips them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import accelerate
import torch
from numpy.typing import NDArray

from autotrainer.integrations.accelerate import watch
from benchmarks.overhead.library_fits import STEPS, Gate
from benchmarks.overhead.models import pytorch_model

__all__ = ["build"]


def build(model: str, x: NDArray[Any], y: NDArray[Any], setting: str, folder: Path, gate: Gate) -> Any:
    """Return the network and the training."""
    torch.manual_seed(0)
    network, loss_fn = pytorch_model(model), torch.nn.CrossEntropyLoss()
    batch, targets = torch.from_numpy(x), torch.from_numpy(y)

    def fit() -> None:
        torch.set_num_threads(1)  # of this thread
        accelerator = accelerate.Accelerator(cpu=True)
        wrapped, optimizer = accelerator.prepare(network, torch.optim.Adam(network.parameters(), 1e-4))
        watched = setting == "accelerate_watch"
        with watch(accelerator, wrapped, optimizer, loss_fn=loss_fn, steps=STEPS) if watched else nullcontext():
            while not gate.stopped:
                optimizer.zero_grad()
                accelerator.backward(loss_fn(wrapped(batch), targets))
                if setting == "accelerate_grad_norm":
                    accelerator.log({"grad_norm": float(accelerator.clip_grad_norm_(wrapped.parameters(), 1e9))})
                optimizer.step()
                gate.pass_through()

    return network, fit
