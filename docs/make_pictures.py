"""The pictures on the pages of problems: a real faulty and a real healthy training, each a few seconds long.

    python docs/make_pictures.py                  # all pictures, into docs/_static/problems/
    python docs/make_pictures.py dying_relu …     # those of some problems

A picture is made only if the rule reports the faulty run, and not the healthy one: each shows what it is named
after. Problems that no small run in PyTorch shows, or that no curve shows, have none.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - the script trains

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from pictured_runs import PICTURES, Picture, Run  # noqa: E402

import autotrainer  # noqa: E402 - from this checkout
from autotrainer.api.replay import recorded_run  # noqa: E402
from autotrainer.records.history import RunHistory  # noqa: E402

TARGET = HERE / "_static" / "problems"
CAPTIONS = TARGET / "captions.json"

FAULTY, HEALTHY = "#d1453b", "#2f7fb8"
GRAY = "#808080"
"""Colors that stand out on a light and a dark page."""
MOST_POINTS = 160


def train(run: Run) -> tuple[RunHistory, list[autotrainer.Finding]]:
    """Train, watched, and return what was recorded and found."""
    torch.manual_seed(0)
    model, (x, y), loss = run.model(), run.data(), run.loss()
    optimizer = run.optimizer(model)
    held_out = None if run.validation is None else run.validation()
    step = 0
    with tempfile.TemporaryDirectory() as folder:
        with autotrainer.watch(
            model, optimizer, loss_fn=loss, epochs=run.epochs, log_dir=folder, overhead=1.0
        ) as monitor:
            for _ in range(run.epochs):
                order = torch.randperm(len(x)) if run.shuffled else torch.arange(len(x))
                for chosen in order.split(32):
                    inputs, targets = run.batch(step, x[chosen], y[chosen])
                    if run.zero_grad:
                        optimizer.zero_grad()
                    loss(model(inputs), targets).backward()
                    run.each_step(step, model, optimizer)
                    optimizer.step()
                    step += 1
                with torch.no_grad():
                    monitor.end_epoch(
                        **({} if held_out is None else {"val_loss": loss(model(held_out[0]), held_out[1])})
                    )
        (log,) = Path(folder).glob("*.jsonl")
        return recorded_run(log)[0], list(monitor.findings)


def make(problem: str, picture: Picture) -> str:
    """Make one picture, and return what is wrong with it; empty if nothing is."""
    shown = []
    for name, run in (("faulty", picture.faulty), ("healthy", picture.healthy)):
        history, findings = train(run)
        found = [f"{f.problem} ({f.severity})" for f in findings]
        if (problem in [finding.problem for finding in findings]) is not (name == "faulty"):
            return f"{problem}: the {name} run has {', '.join(found) or 'no finding'}"
        shown.append((name, *map(np.asarray, picture.curve(history))))
    draw(TARGET / f"{problem}.svg", picture, shown)
    return ""


def draw(path: Path, picture: Picture, curves: Sequence[tuple[str, Any, Any]]) -> None:
    """Draw the curves of both runs."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style = {"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), GRAY)
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(6.4, 2.6), layout="constrained")
        for (name, x, y), color, line in zip(curves, (FAULTY, HEALTHY), ("-", "--"), strict=True):
            kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
            values = np.where(np.isfinite(y), y, np.nan)[kept]
            few = len(kept) < 12
            axes.plot(x[kept], values, line, color=color, label=f"{name} run", marker="o" if few else "", markersize=4)
        if picture.log:
            axes.set_yscale("log")
        axes.set(xlabel=picture.axes[0], ylabel=picture.axes[1])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRAY, alpha=0.25, linewidth=0.5)
        axes.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def main(names: Sequence[str]) -> int:
    """Make the pictures of some problems, or of all; return 1 if one does not show its problem."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    wrong = []
    for problem in names or PICTURES:
        mistake = make(problem, PICTURES[problem])
        print(mistake or f"{problem}: made", flush=True)
        wrong += [mistake] if mistake else []
    made = {name: picture.caption for name, picture in PICTURES.items() if (TARGET / f"{name}.svg").exists()}
    CAPTIONS.write_text(json.dumps(made, indent=2) + "\n", "utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
