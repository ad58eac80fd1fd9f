"""``python -m benchmarks overhead``: what does watching cost a step?

Both trainings of a model run in one process, in blocks A B A B …: A plain, B watched. The ratio of a pair of blocks
is that of their median step times; the first pairs are dropped. The watched training stays watched from its first step
on, so that the start allowance (0.2 s, told apart) falls into the dropped pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.pool import Row, Task, run_all
from benchmarks.tables import table

__all__ = ["MODELS", "interval", "overhead", "ratios"]

MODELS = ("mlp", "cnn", "transformer")


def overhead(frameworks: Sequence[str], *, quick: bool, out: Path | None) -> str:
    """Run the benchmark and return its tables, Markdown.

    One process at a time, or the two would disturb each other.
    """
    pairs, seconds = (8, 0.4) if quick else (24, 1.0)
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


def ratios(plain: NDArray[Any], watched: NDArray[Any], drop: int) -> NDArray[np.float64]:
    """Return watched ÷ plain, pair by pair.

    Args:
        plain: One number a block, shape (pairs,).
        watched: The same of the watched training.
        drop: First pairs to leave out.
    """
    return np.asarray(watched[drop:] / plain[drop:], np.float64)


def interval(values: NDArray[np.float64], draws: int = 4000, seed: int = 0) -> tuple[float, float, float]:
    """Return the median and its 95 % bootstrap interval over blocks."""
    generator = np.random.default_rng(seed)
    medians = np.median(generator.choice(values, (draws, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


def _line(row: Row) -> list[str]:
    task = row["task"]
    if "error" in row:
        return [task["framework"], task["model"], row["error"], *["–"] * 7]
    drop = max(2, len(row["plain_median"]) // 4)
    plain, watched = np.asarray(row["plain_median"]), np.asarray(row["watched_median"])
    median, low, high = interval(ratios(plain, watched, drop))
    processor = ratios(np.asarray(row["plain_processor"]), np.asarray(row["watched_processor"]), drop)
    mean, low_mean, high_mean = interval(processor)
    return [
        task["framework"],
        task["model"],
        f"{1e3 * float(np.median(plain[drop:])):.3g}",
        f"{median:.4f}",
        f"{low:.4f} – {high:.4f}",
        f"{mean:.4f}",
        f"{low_mean:.4f} – {high_mean:.4f}",
        f"{row['start']:.2f}",
        f"{row['entry']:.3f}",
        str(len(plain) - drop),
    ]
