"""A run log that is written record by record."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from autotrainer.monitoring.logs.run_log import LogWriter, encode_step
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext

LAYERS = 2


class Recording:
    """A run whose log is written record by record."""

    all: ClassVar[list[Recording]] = []

    def __init__(self, folder: Path, *, layer: str = "dense", rate: float = 0.1, loss: str = "mse") -> None:
        self.writer = LogWriter(folder)
        self.path = self.writer.path
        layers = tuple(LayerInfo(f"{layer}{number}", units=4, parameters=20) for number in range(LAYERS))
        context = TaskContext(
            "pytorch", layers=layers, optimizer=OptimizerInfo("sgd", rate), loss=LossInfo(loss), planned_epochs=4
        )
        self.writer.write({"type": "context", "context": context.to_dict()})
        self.steps = 0
        self.all.append(self)

    def step(self, loss: float = 1.0) -> None:
        scalars = np.full(len(STEP_COLUMNS), np.nan)
        scalars[[STEP_COLUMNS.index("loss"), STEP_COLUMNS.index("grad_norm")]] = loss, 0.1
        layers = np.full((LAYERS, len(LAYER_COLUMNS)), np.nan)
        layers[:, LAYER_COLUMNS.index("grad_norm")] = 0.1
        stats = StepStats(self.steps, 0, scalars, layers)
        self.writer.write(encode_step(stats, (), TargetSummary()))
        self.steps += 1

    def check(self) -> None:
        self.writer.write({"type": "check", "step": self.steps - 1})

    def epoch(self, **values: float) -> None:
        self.writer.write({"type": "epoch", "epoch": 0, "step": self.steps - 1, "values": values})

    def end(self, *, finished: bool = True) -> None:
        self.writer.write({"type": "end", "step": self.steps - 1, "finished": finished})
        self.check()
        self.writer.close()

    def cut(self) -> None:
        """End as a crash does: within a line."""
        self.writer.close()
        with self.path.open("ab") as file:
            file.write(b'{"type":"step","step":')
