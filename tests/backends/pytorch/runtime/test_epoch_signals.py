"""Signals of epochs: what listeners are told of loaders and modes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autotrainer.backends.pytorch.runtime.epoch_signals import add_listener, remove_listener


class Listener:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def loader_started(self, loader: Any, iterator: Any) -> None:
        self.heard.append(loader)

    def evaluation_began(self, module: nn.Module) -> None:
        self.heard.append(module)


def test_listeners_are_told_of_loaders_and_evaluations_but_not_of_training_mode() -> None:
    listener, model = Listener(), nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    loader = DataLoader(TensorDataset(torch.zeros(2, 2)))
    add_listener(listener)
    try:
        model.train()
        assert not listener.heard
        model.eval()
        list(loader)
        model.train(mode=False)
    finally:
        remove_listener(listener)
    model.eval()
    evaluated = [*model, model]
    assert listener.heard == [*evaluated, loader, *evaluated]
    assert not model.training
