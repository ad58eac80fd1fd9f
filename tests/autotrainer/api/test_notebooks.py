"""Executed notebooks: what they show of a run while it goes on, and of its findings, report, plan and result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.autotrainer.reporting.notebook.fakes import checked

pytest.importorskip("ipykernel")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[3]
HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = pytest.mark.slow

TORCH = f"""
import torch
from torch import nn
import autotrainer
torch.manual_seed(0)
x = torch.randn(256, 8)
y = (x[:, 0] > x[:, 1]).long()
model = nn.Sequential()
model.add_module({HOSTILE!r}, nn.Linear(8, 8))
model.add_module("out", nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
loss_fn = nn.CrossEntropyLoss()
"""
WATCH = """
with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=4) as monitor:
    for epoch in range(4):
        for rows in torch.split(torch.randperm(256), 32):
            optimizer.zero_grad()
            loss_fn(model(x[rows]), y[rows]).backward()
            optimizer.step()
        monitor.end_epoch(val_loss=1.0)
"""
KERAS = """
import keras, numpy as np
import autotrainer
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("adam", "mse")
with autotrainer.watch(model) as monitor:
    model.fit(x, 1000 * x.sum(axis=1), epochs=3, verbose=0)
"""
FIT = """
result = autotrainer.fit(model, (x.numpy(), y.numpy()), loss=loss_fn, optimizer=optimizer, epochs=3)
"""
LOOP = """
rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 32, shuffle=True)
loop = autotrainer.Loop(model, optimizer, loss_fn, rows, epochs=3, budget=2.5)
for epoch in loop:
    for inputs, targets in loop.train_loader:
        loop.optimizer.zero_grad()
        loop.loss_fn(loop.model(inputs), targets).backward()
        loop.optimizer.step()
    with torch.no_grad():
        loop.end_epoch(val_accuracy=(loop.model(x).argmax(1) == y).float().mean())
"""


Outputs = list[dict[str, Any]]


def _run(*cells: str) -> list[Outputs]:
    """Execute cells in a kernel of their own, and return the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()  # raises if a cell does
    return [cell.outputs for cell in notebook.cells]


@pytest.fixture(scope="module")
def cells() -> Mapping[str, Outputs]:
    """The outputs of the cells of one notebook, by what they hold."""
    sources = {
        "setup": TORCH, "watch": WATCH, "monitor": "monitor", "report": "monitor.report()",
        "finding": "monitor.findings[0]", "silent watch": _silent(WATCH), "fit": TORCH + FIT, "result": "result",
        "plan": "result.plan", "silent fit": TORCH + _silent(FIT),
        "loop": TORCH + LOOP, "silent loop": TORCH + _silent(LOOP),
        "Keras": KERAS, "Keras report": "monitor.report()",
    }  # fmt: skip
    return dict(zip(sources, _run(*sources.values()), strict=True))


def _silent(cell: str) -> str:
    return re.sub(r"epochs=\d", r"\g<0>, progress=False", cell, count=1)


def _shown(outputs: Outputs) -> list[str]:
    """Return the HTML of outputs, each checked: no name has become markup."""
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    return [checked(page) for page in pages]


def test_watched_pytorch_run_has_one_display(cells: Mapping[str, Outputs]) -> None:
    (display,) = _shown(cells["watch"])
    for part in ("ended", "step 32", "4 of 4 epochs", "learning_rate_too_high"):
        assert part in display
    assert "progressbar" not in display  # it has ended


@pytest.mark.parametrize("name", ["monitor", "report", "finding"])
def test_objects_are_shown_as_html(cells: Mapping[str, Outputs], name: str) -> None:
    (page,) = _shown(cells[name])
    assert "learning_rate_too_high" in page
    assert HOSTILE not in page


def test_hostile_name_of_a_layer_is_escaped(cells: Mapping[str, Outputs]) -> None:
    assert "&lt;img src=x" in "".join(_shown(cells["report"]))


def test_fit_shows_its_trainings_and_its_result(cells: Mapping[str, Outputs]) -> None:
    (display,) = _shown(cells["fit"])
    for part in ("baseline training: epoch", "attempt ", "score"):
        assert part in display
    (page,) = _shown(cells["result"])
    assert "learning_rate_too_high" in page
    assert "Changes to make in your code" in page
    assert "fixes" in _shown(cells["plan"])[0]


def test_loop_shows_its_trainings(cells: Mapping[str, Outputs]) -> None:
    (display,) = _shown(cells["loop"])
    for part in ("baseline training: epoch", "attempt 1: epoch", "score"):
        assert part in display
    assert "progressbar" not in display  # it has ended


@pytest.mark.parametrize("name", ["silent watch", "silent fit", "silent loop"])
def test_progress_can_be_switched_off(cells: Mapping[str, Outputs], name: str) -> None:
    assert _shown(cells[name]) == []


def test_watched_keras_run_has_one_display(cells: Mapping[str, Outputs]) -> None:
    (display,) = _shown(cells["Keras"])
    for part in ("ended", "unscaled_targets"):
        assert part in display
    assert "unscaled_targets" in _shown(cells["Keras report"])[0]
