"""Makes the pictures of real runs in README.md and docs/view.md: the HTML report and the live page, photographed by
headless Chromium, and the terminal.

python docs/make_report.py
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import autotrainer  # noqa: E402 - from this checkout
from autotrainer import registry  # noqa: E402
from autotrainer.view.page import routes  # noqa: E402
from autotrainer.view.run_folder import RunFolder  # noqa: E402
from autotrainer.view.server import ViewServer  # noqa: E402
from autotrainer.view.terminal import frame  # noqa: E402

PICTURE = ROOT / "docs" / "_static" / "report.png"
WIDTH, HEIGHT = 1000, 1010
TERMINAL = ROOT / "docs" / "_static" / "terminal.svg"
COLUMNS, LINES = 112, 24
VIEW = ROOT / "docs" / "_static" / "view.png"


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


def three_runs(folder: Path, look: Callable[[], None]) -> None:
    """Train three times, watched, and look while the last one still goes on."""
    import torch
    from torch import nn

    def shallow() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    torch.manual_seed(0)
    sigmoids = [layer for _ in range(8) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    train(shallow(), 0.1, folder, "baseline", 20)
    train(shallow(), 1e-3, folder, "small-rate", 20)
    train(nn.Sequential(*sigmoids, nn.Linear(8, 1)), 0.1, folder, "deep", 12, look)


def terminal(runs: RunFolder) -> str:
    """Return what ``autotrainer view --terminal`` shows, as SVG."""
    from rich.console import Console

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(frame(runs, COLUMNS, LINES))
    svg = console.export_svg(title="autotrainer view runs --terminal", unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\n\s*", "", svg, flags=re.DOTALL)  # a picture loads no font from elsewhere


def photograph_view(browser: str, runs: RunFolder) -> None:
    """Take the picture of the live page."""
    with ViewServer(routes(runs)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        photograph(browser, server.url, VIEW, 860)
        server.shutdown()


def photograph(browser: str, address: str, picture: Path, height: int) -> None:
    """Take the picture of a page, once it has loaded everything."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        options += [f"--user-data-dir={folder}", f"--window-size={WIDTH},{height}", f"--screenshot={picture}"]
        options += ["--virtual-time-budget=4000"]
        subprocess.run([browser, *options, address], check=True, capture_output=True, timeout=120)


def main() -> int:
    """Write the pictures."""
    logging.disable(logging.CRITICAL)
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if browser is None:
        print("make_report.py needs Chromium on the path", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):

        def look() -> None:
            runs = RunFolder([Path("runs")], registry.make_rules)
            while not runs.update(1.0):
                pass
            TERMINAL.write_text(terminal(runs), "utf-8")
            photograph_view(browser, runs)

        three_runs(Path("runs"), look)
        page = Path(folder) / "report.html"
        result().report().save(page)
        photograph(browser, page.as_uri(), PICTURE, HEIGHT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
