"""The pictures on the pages of problems and repairs: two real trainings each, a few seconds long.

    python docs/make_pictures.py                  # all pictures, into docs/_static/problems/ and repairs/
    python docs/make_pictures.py dying_relu …     # those of some problems or repairs

A picture is made only if the rule reports the faulty run, and not the healthy one: each shows what it is named
after. That of a repair shows the faulty run of a problem, and the same with what the repair proposes, if the curve then
ends lower and the rule reports no more than before. `pictures.problems.WITHOUT` and `pictures.repaired.WITHOUT` say
which pages have none, and why.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 - the script trains

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from pictures.problems import PICTURES  # noqa: E402
from pictures.repaired import REPAIRED  # noqa: E402
from pictures.run import Curve, Picture, Repaired, Run, Trained  # noqa: E402
from pictures.training import train, train_managed  # noqa: E402

import autotrainer  # noqa: E402 - from this checkout
from autotrainer import registry  # noqa: E402

TARGET = HERE / "_static"

FAULTY, HEALTHY = "#d1453b", "#2f7fb8"
GRAY = "#808080"
"""Colors that stand out on a light and a dark page."""
MOST_POINTS = 160


def picture_problem(problem: str) -> str:
    """Draw a faulty and a healthy run, and return the caption.

    Raises:
        ValueError: If the rule reports the healthy run, or not the faulty one.
    """
    picture = PICTURES[problem]
    faulty, healthy = _trained(picture.faulty), _trained(picture.healthy)
    for name, run, expected in (("faulty", faulty, True), ("healthy", healthy, False)):
        if (run.finding(problem) is not None) is not expected:
            found = "; ".join(map(str, run.findings)) or "nothing"
            raise ValueError(f"the {name} run is not as it should be: {found}")
    draw(TARGET / "problems" / f"{problem}.svg", picture, {"faulty run": faulty, "healthy run": healthy})
    return f"A faulty and a healthy run. {picture.caption}"


def _trained(run: Run | Callable[[], Trained]) -> Trained:
    return train(run) if isinstance(run, Run) else run()


def picture_repair(repair: str) -> str:
    """Draw a run with a problem, without and with a repair, and return the caption.

    Raises:
        ValueError: If the repair proposes nothing, the rule reports more than before, or the curve ends no lower.
    """
    shown = REPAIRED[repair]
    before = train_managed(shown.run) if shown.mend is None else train(shown.run)
    finding = before.finding(shown.problem)
    (kind,) = [kind for kind in registry.repairs() if kind.name == repair]
    proposals = [] if finding is None else list(kind().propose(finding, before.context, before.history.targets))
    if finding is None or len(proposals) <= shown.proposal:
        found = "; ".join(map(str, before.findings)) or "nothing"
        raise ValueError(f"it proposes nothing for {shown.problem}: {found}")
    edits = proposals[shown.proposal].edits
    after = train_managed(shown.run, edits) if shown.mend is None else train(shown.run.but(loop=shown.mend))
    left = after.finding(shown.problem)
    ends = _end(shown.curve, before), _end(shown.curve, after)
    plan = autotrainer.RepairPlan((repair,), edits, (shown.problem,))
    if (left is not None and left.severity.rank < finding.severity.rank) or not ends[1] < ends[0]:
        raise ValueError(f"{plan} does not repair {finding}: {ends[0]:.3g} became {ends[1]:.3g}; {left}")
    draw(TARGET / "repairs" / f"{repair}.svg", shown, {"before": before, "after": after})
    still = "" if left is None or left.severity == "info" else " It is still reported, but the curve ends lower."
    return f"A run with `{shown.problem}`, before and after: {'; '.join(map(str, plan.edits))}.{still}"


def _end(curve: Curve, run: Trained) -> float:
    """Return the mean of the last fifth of a curve; infinity where it is not finite."""
    values = np.asarray(curve(run.history)[1])
    end = float(values[-max(1, len(values) // 5) :].mean())
    return end if np.isfinite(end) else np.inf


def draw(path: Path, picture: Picture | Repaired, runs: Mapping[str, Trained]) -> None:
    """Draw the curves of two runs, with their names."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    style = {"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), GRAY)
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(6.4, 2.6), layout="constrained")
        for (name, run), color, line in zip(runs.items(), (FAULTY, HEALTHY), ("-", "--"), strict=True):
            x, y = map(np.asarray, run.points or picture.curve(run.history))
            kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
            values = np.where(np.isfinite(y), y, np.nan)[kept]
            few = len(kept) < 12
            axes.plot(x[kept], values, line, color=color, label=name, marker="o" if few else "", markersize=4)
            finite = np.flatnonzero(np.isfinite(y))
            if 0 < len(finite) < len(y):  # where the values end to be finite
                axes.plot(x[finite[-1]], y[finite[-1]], "x", color=color, markersize=9, markeredgewidth=2)
        if picture.log:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
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
    warnings.simplefilter("ignore")  # of frameworks, about the faults
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
