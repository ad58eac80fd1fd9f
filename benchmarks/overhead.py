"""``python -m benchmarks overhead``: what does watching cost a step?

Both trainings of a model run in one process, in blocks A B B A A B …: A plain, B watched. The ratio of a pair of blocks
is that of their median step times; the first pairs are dropped. The watched training stays watched from its first step
on, so that the start allowance (0.2 s, told apart) falls into the dropped pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.pool import Row, Task, run_all
from benchmarks.tables import table

__all__ = ["MODELS", "median_ratio", "overhead", "total_ratio"]

MODELS = ("mlp", "cnn", "transformer")


def overhead(frameworks: Sequence[str], *, quick: bool, out: Path | None) -> str:
    """Run the benchmark and return its tables, Markdown.

    One process at a time, or the two would disturb each other.
    """
    pairs, seconds = (16, 0.25) if quick else (120, 0.25)
    tasks: list[Task] = [
        {"framework": framework, "model": model, "pairs": pairs, "seconds": seconds}
        for framework in frameworks
        for model in MODELS
    ]
    rows = run_all("benchmarks.overhead_run", tasks, out, workers=1)
    head = [
        "framework",
        "model",
        "step, ms",
        "ratio of medians",
        "95 % interval",
        "processor time",
        "95 % interval",
        "start, s",
        "later fit, s",
        "pairs",
    ]
    return table(head, [_line(row) for row in rows])


def median_ratio(plain: NDArray[Any], watched: NDArray[Any]) -> tuple[float, float, float]:
    """Return the median over pairs of watched ÷ plain, and its 95 % bootstrap interval over pairs.

    Args:
        plain: One number a block, shape (pairs,).
        watched: The same of the watched training.
    """
    return _interval(watched / plain, np.ones_like(plain), np.median)


def total_ratio(plain: NDArray[Any], watched: NDArray[Any]) -> tuple[float, float, float]:
    """Return the sum of watched ÷ the sum of plain, and its 95 % bootstrap interval over pairs.

    Unlike a median it counts the few steps that were measured, in whichever pair they fall.
    """
    return _interval(watched, plain, np.sum)


def _interval(
    upper: NDArray[Any], lower: NDArray[Any], statistic: Callable[..., Any], draws: int = 4000
) -> tuple[float, float, float]:
    drawn = np.random.default_rng(0).integers(0, len(upper), (draws, len(upper)))
    found = statistic(upper[drawn], axis=1) / statistic(lower[drawn], axis=1)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(statistic(upper) / statistic(lower)), float(low), float(high)


def _line(row: Row) -> list[str]:
    task = row["task"]
    if "error" in row:
        return [task["framework"], task["model"], row["error"], *["–"] * 7]
    drop = max(2, len(row["plain_median"]) // 4)

    def blocks(name: str) -> NDArray[Any]:
        return np.asarray(row[name][drop:])

    median, low, high = median_ratio(blocks("plain_median"), blocks("watched_median"))
    total, least, most = total_ratio(blocks("plain_processor"), blocks("watched_processor"))
    return [
        task["framework"],
        task["model"],
        f"{1e3 * float(np.median(blocks('plain_median'))):.3g}",
        f"{median:.4f}",
        f"{low:.4f} – {high:.4f}",
        f"{total:.4f}",
        f"{least:.4f} – {most:.4f}",
        f"{row['start']:.2f}",
        f"{row['entry']:.3f}",
        str(len(row["plain_median"]) - drop),
    ]
