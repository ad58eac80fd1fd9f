"""Compares the processes of a distributed training, its ranks, as far as they tell each other about sampled steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import Floats

__all__ = ["RANK_COLUMNS", "RankComparison", "spread"]

RANK_COLUMNS = (
    "present",  # 1 if the rank has measured the step
    "position",  # collective operations since the first sampled step: equal at the same point of the training
    "loss",  # loss of its own batch
    "grad_norm",  # L2 norm of the gradients that it passes to its optimizer: of what it holds of them
    "weight_norm",  # L2 norm of the weights that it holds
    "nonfinite_loss",  # 1 + the first step whose loss was not finite, counted from the first sampled one; 0: none was
    "nonfinite_inputs",  # 1 if its inputs held values that are not finite
    "nonfinite_outputs",  # 1 if activations of a layer were not finite
    "input_scale",  # root mean square of its inputs
    "batch",  # checksum of rows of its inputs and targets; NaN if there are none
)
"""What each rank tells the others of a sampled step: the columns of a table with a row for each; NaN: not measured."""

_MIN_BATCHES = 8
"""Minimum number of distinct batches for equal batches in two processes not to be a coincidence."""
_MIN_OUTLIERS = 8
"""Minimum number of sampled steps in which one process must be beyond all others for that not to be chance: of two
processes, one is in each of 8 with a probability of 1/128, but beyond a factor, far more rarely."""
_FACTOR = 2.0
"""How many times the largest of the other processes a scale must be, or the smallest of them, to count as different
data."""
_ROUNDING = 1e-7
"""Relative deviation that sums of squares in double precision can show where all values are equal."""


def spread(sums: Floats, squares: Floats, count: int) -> Floats:
    """Return how far values of processes are apart at least: the largest less the smallest, relative to their mean.

    Args:
        sums: Shape (rows,): sums over the processes.
        squares: Shape (rows,): sums of the squares.
        count: Number of processes.

    Returns:
        Shape (rows,): twice the standard deviation over the mean; 0 up to rounding, 1 if only some are finite.
    """
    with np.errstate(all="ignore"):
        mean = sums / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0)) / np.abs(mean)
    deviation = np.where(mean == 0, 0.0, deviation)
    return np.where(deviation > _ROUNDING, 2 * deviation, 0.0)


class RankComparison:
    """What the sampled steps so far show about the ranks.

    Args:
        ranks: The ranks that are compared, in order.
        replicas: Whether each of them holds all weights, or parts of them.
        parallel_data: Whether they are known to train on different data.
    """

    def __init__(self, ranks: tuple[int, ...], *, replicas: bool, parallel_data: bool) -> None:
        self._ranks, self._replicas, self._parallel_data = ranks, replicas, parallel_data
        self._batches: list[Floats] = []
        self._twins: NDArray[np.bool_] | None = None
        self._outliers = {"input_scale": (-1, 0), "loss": (-1, 0)}
        self._steps = 0
        self._first_nonfinite: dict[str, float] = {}

    def add(self, table: Floats, gaps: Floats | None, has_weights: NDArray[np.bool_] | None) -> dict[str, float]:
        """Compare the ranks in one more sampled step.

        Args:
            table: Shape (ranks, `RANK_COLUMNS`).
            gaps: Shape (rows,): relative differences of weight norms, as `spread` returns them; None for shards.
            has_weights: Shape (rows,): whether a row has weights.

        Returns:
            The facts of `autotrainer.records.facts.FACTS` that have become known.
        """
        columns = dict(zip(RANK_COLUMNS, table.T, strict=True))
        present = columns["present"] > 0
        facts = self._nonfinite(columns)
        positions = columns["position"][~np.isnan(columns["position"])]
        if (
            len(self._ranks) < 2 or not present.all() or (positions != positions[:1]).any()
        ):  # of uneven batches, steps of one number are others
            return facts
        self._steps += 1
        facts |= {"replicas": float(len(self._ranks)), "replica_steps": float(self._steps)}
        has_loss = not np.isnan(columns["loss"]).any()
        if self._replicas and has_loss and gaps is not None and has_weights is not None and has_weights.any():
            gaps = np.where(has_weights & np.isfinite(gaps), gaps, 0.0)
            facts |= {"replica_gap": float(np.median(gaps[has_weights])), "replica_worst_gap": float(gaps.max())}
            facts["replica_layer"] = float(gaps.argmax())
            facts |= self._odd_one(columns["weight_norm"], "replica_rank", "replica_ratio", 1e-6)
            facts |= self._odd_one(columns["grad_norm"], "replica_gradient_rank", "replica_gradient_ratio", 1e-3)
        if self._parallel_data or self._replicas:
            facts |= self._compare_batches(columns["batch"])
            facts |= self._compare_data(columns)
        return facts

    def _nonfinite(self, columns: dict[str, Floats]) -> dict[str, float]:
        """Return which rank had values that are not finite first, if not all had them at once."""
        if self._first_nonfinite:
            return {}
        first = columns["nonfinite_loss"]
        lost = first > 0
        inputs = columns["nonfinite_inputs"] > 0
        outputs = columns["nonfinite_outputs"] > 0
        chosen = inputs if inputs.any() else outputs
        if lost.any():
            chosen = lost & (first == first[lost].min())
        if not chosen.any():
            return {}
        self._first_nonfinite = {
            "nonfinite_ranks": float(chosen.sum()),
            "nonfinite_rank": float(self._ranks[int(chosen.argmax())]),
            "nonfinite_rank_inputs": float((inputs & chosen).any()),
        }
        return self._first_nonfinite if not chosen.all() else {}

    def _odd_one(self, values: Floats, rank: str, ratio: str, tolerance: float) -> dict[str, float]:
        """Return the rank with the value that differs from those of all others, and its ratio to theirs."""
        if len(values) < 3 or not np.isfinite(values).all():
            return {}
        usual = float(np.median(values))
        distances = np.abs(values - usual) / max(usual, np.finfo(float).tiny)
        different = distances > tolerance
        if different.sum() != 1:
            return {}
        odd = int(different.argmax())
        return {rank: float(self._ranks[odd]), ratio: float(values[odd] / max(usual, np.finfo(float).tiny))}

    def _compare_batches(self, batches: Floats) -> dict[str, float]:
        if np.isnan(batches).any():
            return {}
        equal = batches[:, None] == batches[None, :]
        self._twins = equal if self._twins is None else self._twins & equal
        if not any(np.array_equal(batches, each) for each in self._batches):
            self._batches = [*self._batches[-_MIN_BATCHES:], batches]
        if len(self._batches) < _MIN_BATCHES:
            return {}
        pairs = np.argwhere(np.triu(self._twins, 1))
        facts = {"replica_twins": float(self._twins[0, 1:].mean())}
        if len(pairs):
            one, other = (self._ranks[int(each)] for each in pairs[0])
            facts |= {"twin_pairs": float(len(pairs)), "twin_rank": float(one), "twin_of": float(other)}
        return facts

    def _compare_data(self, columns: dict[str, Floats]) -> dict[str, float]:
        """Return the rank whose inputs, or whose loss, are on another scale in each of many steps."""
        facts: dict[str, float] = {}
        for name in self._outliers:
            values = np.abs(columns[name])
            odd, times = self._outliers[name]
            ratio, rank = 1.0, -1
            if np.isfinite(values).all() and (values > 0).all() and len(values) > 2:
                for index, value in enumerate(values):
                    others = np.delete(values, index)
                    if value > _FACTOR * others.max() or _FACTOR * value < others.min():
                        rank, ratio = index, float(value / np.median(others))
            times = times + 1 if rank == odd and rank >= 0 else int(rank >= 0)
            self._outliers[name] = rank, times
            if times >= _MIN_OUTLIERS:
                facts |= {f"odd_{name}_rank": float(self._ranks[rank]), f"odd_{name}_ratio": ratio}
        return facts
