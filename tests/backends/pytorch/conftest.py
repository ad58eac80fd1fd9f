from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrainer.adapter.spec import FitRequest, Trained, TrainingSpec
from autotrainer.backends.pytorch.training.trainer import TorchTrainer, make_trainer
from autotrainer.records.data import normalize
from autotrainer.testing import RecordedRun


class Managed:
    """A small classification task (200 + 60 rows, 4 features, 2 classes), and trainings of models on it."""

    Run = RecordedRun

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(260, 4))
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).astype(np.int64)

    def mlp(self) -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))

    def request(self, model: Any, **changes: Any) -> FitRequest:
        values: dict[str, Any] = {
            "model": model,
            "train": (self.x[:200], self.y[:200]),
            "validation": (self.x[200:], self.y[200:]),
            "loss": nn.CrossEntropyLoss(),
            "optimizer": lambda params: torch.optim.Adam(params, lr=1e-2),
            "epochs": 2,
            "batch_size": 32,
            **changes,
        }
        for name in ("train", "validation"):
            values[name] = normalize(values[name], name)
        return FitRequest(**values)

    def trainer(self, model: Any, **changes: Any) -> TorchTrainer:
        return make_trainer(self.request(model, **changes))

    def train(
        self, model: Any, *edits: Any, epochs: int = 2, seed: int = 0, **changes: Any
    ) -> tuple[Trained, RecordedRun]:
        run = RecordedRun()
        trained = self.trainer(model, **changes).train(TrainingSpec(epochs, seed, edits), run)
        return trained, run


@pytest.fixture
def managed() -> Managed:
    return Managed()


@pytest.fixture
def weights_of() -> Callable[[nn.Module], torch.Tensor]:
    def flat(model: nn.Module) -> torch.Tensor:
        return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])

    return flat
