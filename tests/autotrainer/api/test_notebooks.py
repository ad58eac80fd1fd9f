"""Executed notebooks: what they show of a run while it goes on, and of its findings, report, plan and result."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

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


def _run(*cells: str) -> list[list[dict[str, Any]]]:
    """Execute cells in a kernel of their own, and return the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()  # raises if a cell does
    return [cell.outputs for cell in notebook.cells]


def _shown(outputs: list[dict[str, Any]]) -> list[str]:
    """Return the HTML of outputs, each checked: well-formed, without scripts, and no name that has become markup."""
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    for page in pages:
        _Checker().feed(page)
    return pages


class _Checker(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "span", "pre", "svg", "path", "details", "summary"}
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]


def test_watched_pytorch_run_has_one_display() -> None:
    _, cell, *shown = _run(TORCH, WATCH, "monitor", "monitor.report()", "monitor.findings[0]")
    (display,) = _shown(cell)
    assert "ended" in display
    assert "step 32" in display
    assert "4 of 4 epochs" in display
    assert "learning_rate_too_high" in display
    assert "progressbar" not in display  # it has ended
    for outputs in shown:
        (page,) = _shown(outputs)
        assert "learning_rate_too_high" in page
        assert HOSTILE not in page
    assert any("&lt;img" in page for outputs in shown for page in _shown(outputs))


def test_watched_keras_run_has_one_display() -> None:
    (cell, shown) = _run(KERAS, "monitor.report()")
    (display,) = _shown(cell)
    assert "ended" in display
    assert "unscaled_targets" in display
    assert "unscaled_targets" in _shown(shown)[0]


def test_fit_shows_its_trainings_and_its_result() -> None:
    _, cell, result, plan = _run(TORCH, FIT, "result", "result.plan")
    (display,) = _shown(cell)
    assert "baseline training: epoch" in display
    assert "attempt " in display
    assert "score" in display
    (page,) = _shown(result)
    assert "learning_rate_too_high" in page
    assert "Changes to make in your code" in page
    assert "fixes" in _shown(plan)[0]


def test_progress_can_be_switched_off() -> None:
    cells = [
        WATCH.replace("epochs=4", "epochs=4, progress=False", 1),
        FIT.replace("epochs=3", "epochs=3, progress=False"),
    ]
    _, watched, fitted = _run(TORCH, *cells)
    assert not _shown(watched)
    assert not _shown(fitted)
