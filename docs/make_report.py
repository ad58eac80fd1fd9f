"""Makes the picture at the top of README.md: the HTML report of a real run, photographed by headless Chromium.

python docs/make_report.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import autotrainer  # noqa: E402 - from this checkout

PICTURE = ROOT / "docs" / "_static" / "report.png"
WIDTH, HEIGHT = 1000, 1010


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


def main() -> int:
    """Write the picture."""
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
