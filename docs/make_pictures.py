"""The pictures on the pages of problems and repairs: two real trainings each, a few seconds long.

    python docs/make_pictures.py                  # all pictures, into docs/_static/problems/ and repairs/
    python docs/make_pictures.py dying_relu …     # those of some problems or repairs

A picture is made only if the rule reports the faulty run, and not the healthy one: each shows what it is named
after. That of a repair shows the faulty run of a problem, and the same with what the repair proposes first, if the rule
then reports nothing and the loss ends lower. What no small run in PyTorch shows, or no curve, has none; nor has a
repair that is no change of model and optimizer alone.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 - the script trains

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from pictured_runs import PICTURES, REPAIRED, Picture, Run  # noqa: E402

import autotrainer  # noqa: E402 - from this checkout
from autotrainer import registry  # noqa: E402
from autotrainer.api.replay import recorded_run  # noqa: E402
from autotrainer.records.history import RunHistory  # noqa: E402
from autotrainer.records.task import TaskContext  # noqa: E402

TARGET = HERE / "_static"

FAULTY, HEALTHY = "#d1453b", "#2f7fb8"
GRAY = "#808080"
"""Colors that stand out on a light and a dark page."""
MOST_POINTS = 160


@dataclass(frozen=True, slots=True)
class Trained:
    """What was recorded of a training, and found in it."""

    history: RunHistory
    context: TaskContext
    findings: Sequence[autotrainer.Finding]

    def finding(self, problem: str) -> autotrainer.Finding | None:
        """Return the finding of a problem; None if there is none."""
        return next((finding for finding in self.findings if finding.problem == problem), None)


def train(run: Run, plan: autotrainer.RepairPlan | None = None) -> Trained:
    """Train, watched, with what a plan changes."""
    torch.manual_seed(0)
    model, (x, y), loss = run.model(), run.data(), run.loss()
    optimizer = run.optimizer(model)
    if plan is not None:
        model, optimizer = plan.apply(model, optimizer)
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
        return Trained(*recorded_run(log), monitor.findings)


def picture_problem(problem: str) -> str:
    """Draw a faulty and a healthy run, and return the caption.

    Raises:
        ValueError: If the rule reports the healthy run, or not the faulty one.
    """
    picture = PICTURES[problem]
    faulty, healthy = train(picture.faulty), train(picture.healthy)
    if faulty.finding(problem) is None or healthy.finding(problem) is not None:
        raise ValueError(f"{problem} is not what tells the runs apart")
    draw(TARGET / "problems" / f"{problem}.svg", picture, {"faulty run": faulty, "healthy run": healthy})
    return f"A faulty and a healthy run. {picture.caption}"


def picture_repair(repair: str) -> str:
    """Draw a run with a problem, without and with a repair, and return the caption.

    Raises:
        ValueError: If the repair proposes nothing, the rule still reports the problem as an error or a warning, or the
            loss ends no lower.
    """
    problem = REPAIRED[repair]
    picture = Picture("", PICTURES[problem].faulty)
    before = train(picture.faulty)
    finding = before.finding(problem)
    (kind,) = [kind for kind in registry.repairs() if kind.name == repair]
    proposals = [] if finding is None else list(kind().propose(finding, before.context, before.history.targets))
    if not proposals:
        raise ValueError(f"{repair} proposes nothing for {problem}")
    plan = autotrainer.RepairPlan((repair,), proposals[0].edits, (problem,))
    after = train(picture.faulty, plan)
    left = after.finding(problem)
    if (left is not None and left.severity != "info") or not last_loss(after) < last_loss(before):
        raise ValueError(f"{repair} does not repair {problem}")
    draw(TARGET / "repairs" / f"{repair}.svg", picture, {"before": before, "after": after})
    return f"A run with {problem}, before and after: {'; '.join(map(str, plan.edits))}."


def last_loss(run: Trained) -> float:
    """Return the mean loss of the last fifth of a run."""
    losses = run.history.losses[1]
    return float(losses[-len(losses) // 5 :].mean())


def draw(path: Path, picture: Picture, runs: Mapping[str, Trained]) -> None:
    """Draw the curves of two runs, with their names."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style = {"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), GRAY)
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(6.4, 2.6), layout="constrained")
        for (name, run), color, line in zip(runs.items(), (FAULTY, HEALTHY), ("-", "--"), strict=True):
            x, y = map(np.asarray, picture.curve(run.history))
            kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
            values = np.where(np.isfinite(y), y, np.nan)[kept]
            few = len(kept) < 12
            axes.plot(x[kept], values, line, color=color, label=name, marker="o" if few else "", markersize=4)
            finite = np.flatnonzero(np.isfinite(y))
            if 0 < len(finite) < len(y):  # where the values end to be finite
                axes.plot(x[finite[-1]], y[finite[-1]], "x", color=color, markersize=9, markeredgewidth=2)
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
    """Make the pictures of some problems and repairs, or of all; return 1 if one does not show what it should."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    wrong = 0
    for folder, known, make in (("problems", PICTURES, picture_problem), ("repairs", REPAIRED, picture_repair)):
        file = TARGET / folder / "captions.json"
        captions = json.loads(file.read_text("utf-8")) if file.exists() else {}
        for name in known if not names else [name for name in names if name in known]:
            try:
                captions[name] = make(name)
                print(f"{name}: made", flush=True)
            except ValueError as error:
                wrong += 1
                print(f"{name}: {error}", flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(dict(sorted(captions.items())), indent=2) + "\n", "utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
