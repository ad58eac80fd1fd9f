"""The PyTorch backend passes the contract of all backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from autotrainer import registry
from autotrainer.adapter import Backend
from autotrainer.testing import BackendContract


class TestPyTorch(BackendContract):
    @property
    def backend(self) -> Backend:
        return next(b for b in registry.backends() if b.name == "pytorch")

    def given(self) -> Mapping[str, Any]:
        torch.set_num_threads(1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())
        return {"model": model, "loss": nn.BCELoss(), "optimizer": torch.optim.SGD(model.parameters(), 0.1)}

    def test_trainings_can_be_paused(self) -> None:
        assert self.backend.trainer(self.request()).resumable

    def weights(self, model: Any) -> list[np.ndarray[Any, Any]]:
        return [value.detach().numpy().copy() for value in model.state_dict().values()]
