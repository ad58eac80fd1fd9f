"""Reports to look at, and a headless Chromium to look with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotrainer.edits import AddDropout, SetLearningRate
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.report import Report
from autotrainer.reporting.result import Attempt, Result

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">{{7*7}}\u202e\x1b[31m<b>"


def history(steps: int, layers: int = 6, epochs: int = 2, name: str = "block.{}.fc") -> tuple[RunHistory, TaskContext]:
    """Return a run whose gradients vanish layer by layer; one layer ends as infinity."""
    infos = tuple(LayerInfo(name.format(i), "dense", "relu", 8, 64) for i in range(layers))
    context = TaskContext("pytorch", "pytorch", loss=LossInfo("CrossEntropyLoss"), layers=infos)
    run = RunHistory(infos)
    for step in range(steps):
        scalars = np.full(len(STEP_COLUMNS), np.nan)
        for column, value in {"loss": math.exp(-step / 20), "grad_norm": 1.0, "learning_rate": 0.1}.items():
            scalars[STEP_COLUMNS.index(column)] = value
        table = np.full((layers, len(LAYER_COLUMNS)), np.nan)
        depth = np.arange(layers)
        for column, values in {
            "grad_norm": 10.0 ** (depth - layers),
            "update_ratio": np.where(depth == 0, 0.0, 1e-3),
            "dead_units": depth / layers,
            "activation_std": 1.0 + depth + step,
        }.items():
            table[:, LAYER_COLUMNS.index(column)] = values
        if step == steps - 1 and steps > 1:
            table[-1, LAYER_COLUMNS.index("grad_norm")] = math.inf
        run.add_step(StepStats(step, step * epochs // steps, scalars, table))
    for epoch in range(epochs):
        reached = {"val_loss": 1 / (epoch + 1), "val_accuracy": 0.5 + epoch / 10}
        run.add_epoch(epoch, (epoch + 1) * steps // epochs - 1, reached)
    return run, context


def findings(count: int, steps: int, name: str = "problem_{}") -> list[Finding]:
    """Return findings: each third one is a root, the next two follow from it; the last one is resolved."""
    made = []
    for i in range(count):
        severity = (Severity.ERROR, Severity.WARNING)[i % 2]
        cause = None if i % 3 == 0 else name.format(i - 1)
        resolved = steps - 1 if i == count - 1 and i else None
        made.append(
            Finding(
                name.format(i), f"AT{100 + i}", Severity.INFO if resolved else severity, 0.9,
                f"The measured value of case {i} is 0.{i:03}, far from what it should be.",
                ("block.1.fc", "block.2.fc"), i * steps // (2 * count), 0, {"ratio": 1e-7, "norm": math.inf},
                ("scale_inputs", "insert_normalization"), cause, "train.py:12", resolved,
            )
        )  # fmt: skip
    return made


def watched(steps: int = 40, count: int = 4, **options: Any) -> Report:
    """Return the report of a watched run."""
    return Report.of_run(findings(count, steps), *history(steps, **options))


def managed(name: str = "problem_{}") -> Report:
    """Return the report of a managed training that was repaired."""
    from autotrainer.reporting.charts.run_charts import run_charts

    run, context = history(40)
    plan = RepairPlan(
        ("scale_learning_rate", "add_dropout"), (SetLearningRate(0.01), AddDropout(("block.1.fc",), 0.5)),
        (name.format(0),), places={name.format(0): "train.py:12"},
    )  # fmt: skip
    other = RepairPlan(("swap_activation",), (SetLearningRate(0.1),))
    attempts = [
        Attempt(other, None, "it broke", (), 0.1),
        Attempt(other, 0.6, None, (), 0.2, epochs=3),
        Attempt(plan, 0.9, None, (), 1.0),
    ]
    found = findings(4, 40, name)
    epochs = {"loss": [1.0, 0.5, 0.2], "val_loss": [1.1, 0.7, 0.4], "score": [0.5, 0.7, 0.9]}
    return Result(
        "repaired", "done", None, None, epochs,
        0.9, 0.5, 0.88, 0.51, found, plan, attempts, 2.3, "accuracy", notes={"drop_bad_rows": "no row is bad"},
        epochs=15, baseline_epochs=2, baseline_steps=40, baseline_charts=run_charts(run, context, found),
    ).report()  # fmt: skip


@dataclass
class Opened:
    """A page that is open, and what went wrong in it."""

    page: Any
    picture: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def take(self, name: str = "") -> bytes:
        """Take a picture of the whole page, kept in the test's folder."""
        path = self.picture.with_stem(f"{self.picture.stem}{name}")
        picture: bytes = self.page.screenshot(path=path, full_page=True)
        return picture


Open = Callable[..., Opened]


@pytest.fixture(scope="session")
def reports() -> SimpleNamespace:
    """Functions that return reports, and a name that attacks the page."""
    return SimpleNamespace(watched=watched, managed=managed, findings=findings, history=history, hostile=HOSTILE)


@pytest.fixture
def open_report(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a report as a file; at the end, nothing may have been requested or complained about."""
    contexts, opened = [], []

    def open_page(report: Report, width: int = 1000, **options: Any) -> Opened:
        path = report.save(tmp_path / "report.html")
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        shown = Opened(context.new_page(), tmp_path / "report.png")
        opened.append(shown)
        shown.page.on("console", lambda message: shown.complaints.append(message.text))
        shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        shown.page.on("request", lambda request: shown.requests.append(request.url))
        shown.page.goto(path.as_uri())
        return shown

    yield open_page
    for shown in opened:
        assert shown.complaints == []
        assert shown.requests == [shown.page.url.partition("#")[0]]
    for context in contexts:
        context.close()
