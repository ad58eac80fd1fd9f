"""Makes the pictures in README.md, of real runs: the HTML report, photographed by headless Chromium, and the terminal.

python docs/make_report.py
"""

from __future__ import annotations

import io
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import autotrainer  # noqa: E402 - from this checkout

PICTURE = ROOT / "docs" / "_static" / "report.png"
WIDTH, HEIGHT = 1000, 1010
TERMINAL = ROOT / "docs" / "_static" / "terminal.svg"
COLUMNS, LINES = 112, 24


def result() -> autotrainer.Result:
    """Return the repair of a deep stack of sigmoids on a ring of two classes."""
    import torch
    from torch import nn

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 2)).astype("float32")
    y = (np.hypot(x[:, 0], x[:, 1]) < 1.1774).astype("int64")  # half of them
    torch.manual_seed(0)
    hidden = [layer for _ in range(7) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    model = nn.Sequential(nn.Linear(2, 16), nn.Sigmoid(), *hidden, nn.Linear(16, 2))
    return autotrainer.fit(
        model,
        (x[:800], y[:800]),
        test_data=(x[800:], y[800:]),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        epochs=30,
        progress=False,
    )


def train(
    model: Any, rate: float, folder: Path, name: str, epochs: int, look: Callable[[], None] = lambda: None
) -> None:
    """Train to tell whether one column is larger than another, watched, and look before the end."""
    import torch
    from torch import nn

    x = torch.randn(512, 8)
    y = (x[:, :1] > x[:, 1:2]).float()
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), rate), nn.BCEWithLogitsLoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=20, log_dir=folder, overhead=1.0) as monitor:
        for _ in range(epochs):
            for rows in torch.randperm(512).split(32):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                outputs = model(x)
                accuracy = ((outputs > 0) == (y > 0.5)).float().mean()
                monitor.end_epoch(val_loss=loss_fn(outputs, y), val_accuracy=accuracy)
        assert monitor.log_path is not None
        monitor.log_path.rename(folder / f"run-{name}.jsonl")
        look()


def terminal(folder: Path) -> str:
    """Return what ``autotrainer view --terminal`` shows of three runs, of which one still goes on, as SVG."""
    import torch
    from rich.console import Console
    from torch import nn

    from autotrainer import registry
    from autotrainer.view.run_folder import RunFolder
    from autotrainer.view.terminal import frame

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)

    def look() -> None:
        runs = RunFolder([folder], registry.make_rules)
        while not runs.update(1.0):
            pass
        console.print(frame(runs, COLUMNS, LINES))

    def shallow() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    torch.manual_seed(0)
    sigmoids = [layer for _ in range(8) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    train(shallow(), 0.1, folder, "baseline", 20)
    train(shallow(), 1e-3, folder, "small-rate", 20)
    train(nn.Sequential(*sigmoids, nn.Linear(8, 1)), 0.1, folder, "deep", 12, look)
    svg = console.export_svg(title="autotrainer view runs --terminal", unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\n\s*", "", svg, flags=re.DOTALL)  # a picture loads no font from elsewhere


def main() -> int:
    """Write the pictures."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        TERMINAL.write_text(terminal(Path(folder)), "utf-8")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if browser is None:
        print("make_report.py needs Chromium on the path", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        result().report().save(page)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        options += [f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={PICTURE}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True, timeout=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
