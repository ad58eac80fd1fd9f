"""Pretrains a small transformer on mixed tasks: ``python -m benchmarks.programs.pytorch_pretraining NAME FILE``."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.data.tokens import IGNORED, VOCABULARY, pretraining_batch
from benchmarks.programs.pytorch_transformer import Transformer, weights_of
from benchmarks.programs.transformer_weights import PRETRAINED, Weights

__all__ = ["pretrain"]

_STEPS, _ROWS, _RATE, _WARM_UP = 1500, 64, 3e-3, 100


def pretrain(name: str, steps: int = _STEPS) -> tuple[Weights, float]:
    """Return the weights of a network of `PRETRAINED`, and its loss over the last 50 batches; deterministic."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = PRETRAINED[name]
    spec = {**network, "attention": "fused", "projections": "separate", "outputs": VOCABULARY}
    model = Transformer({**spec, "tied": network["form"] == "decoder"})
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=0.01)
    loss_fn, draw = nn.CrossEntropyLoss(ignore_index=IGNORED), np.random.default_rng(0)
    losses = []
    for step in range(steps):
        rate = min((step + 1) / _WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = _RATE * rate
        x, y = (torch.from_numpy(values) for values in pretraining_batch(str(network["form"]), draw, _ROWS))
        outputs = model(x)
        loss = loss_fn(outputs.flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return weights_of(model), float(np.mean(losses[-50:]))


def main() -> None:
    """Write the weights of the network named on the command line."""
    name, path = sys.argv[1], Path(sys.argv[2])
    weights, loss = pretrain(name)
    temporary = path.with_name(f"{path.stem}-{os.getpid()}.npz")  # so that no other process reads half a file
    np.savez(temporary, **weights)  # type: ignore[arg-type]  # its stub takes the names for other arguments
    temporary.replace(path)
    print(f"{name}: loss {loss:.3f}")


if __name__ == "__main__":
    main()
