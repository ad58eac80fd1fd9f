"""Settings that are sampled without evidence."""

from __future__ import annotations

import pytest

from autotrainer.edits import SetBatchSize, SetLearningRate, SwapOptimizer
from autotrainer.repair import Dimension
from autotrainer.search.halving.samplers import OptunaSampler, RandomSampler, edits_of, make_sampler

RATES = Dimension("scale_learning_rate", tuple((SetLearningRate(10.0**-k),) for k in range(6)))
SIZES = Dimension("change_batch_size", tuple((SetBatchSize(8 * 2**k),) for k in range(4)))
SWAPS = Dimension("swap_optimizer", ((SwapOptimizer("adam", 1e-3),), (SwapOptimizer("sgd", 1e-2),)))
ALL = (RATES, SIZES, SWAPS)


def _score(settings: tuple[int | None, ...]) -> float:
    """Best at a rate of 0.01 and the original batch size."""
    rate, size, _ = settings
    return -abs((5 if rate is None else rate) - 2) - 0.5 * (size is not None)


@pytest.mark.parametrize("kind", [RandomSampler, OptunaSampler])
def test_learns_from_scores(kind: type) -> None:
    if kind is OptunaSampler:
        pytest.importorskip("optuna")
    sampler = kind(ALL, seed=0)
    scores = []
    for _ in range(90):
        settings = sampler.sample()
        assert all(n is None or 0 <= n < len(d.options) for n, d in zip(settings, ALL, strict=True))
        scores.append(_score(settings))
        sampler.add(settings, scores[-1] if scores[-1] > -3 else float("nan"))
    early, late = scores[:15], scores[-45:]
    assert sum(late) / 45 > sum(early) / 15 + 0.2
    assert max(scores) == 0


@pytest.mark.parametrize("kind", [RandomSampler, OptunaSampler])
def test_equal_seeds_sample_equal_settings(kind: type) -> None:
    if kind is OptunaSampler:
        pytest.importorskip("optuna")

    def run(seed: int) -> list[object]:
        sampler = kind(ALL, seed=seed)
        sampled = []
        for _ in range(12):
            sampled.append(sampler.sample())
            sampler.add(sampled[-1], _score(sampled[-1]))
        return sampled

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_random_sampler_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(make_sampler(ALL, 0), RandomSampler)


def test_new_optimizer_precedes_its_learning_rate() -> None:
    edits = edits_of((3, None, 0), ALL)
    assert edits == (SwapOptimizer("adam", 1e-3), SetLearningRate(1e-3))
    assert edits_of((None, 1, None), ALL) == (SetBatchSize(16),)
