"""Settings that are suggested without evidence."""

from __future__ import annotations

import pytest

from autotrainer.edits import SetBatchSize, SetLearningRate, SwapOptimizer
from autotrainer.repair import Dimension
from autotrainer.search.samplers import OptunaSampler, RandomSampler, edits_of, make_sampler

RATES = Dimension("scale_learning_rate", tuple((SetLearningRate(10.0**-k),) for k in range(6)))
SIZES = Dimension("change_batch_size", tuple((SetBatchSize(8 * 2**k),) for k in range(4)))
SWAPS = Dimension("swap_optimizer", ((SwapOptimizer("adam", 1e-3),), (SwapOptimizer("sgd", 1e-2),)))
ALL = (RATES, SIZES, SWAPS)


def _score(suggestion: tuple[int | None, ...]) -> float:
    """Best at a rate of 0.01 and the batch size as given."""
    rate, size, _ = suggestion
    return -abs((5 if rate is None else rate) - 2) - 0.5 * (size is not None)


@pytest.mark.parametrize("kind", [RandomSampler, OptunaSampler])
def test_learns_from_scores(kind: type) -> None:
    if kind is OptunaSampler:
        pytest.importorskip("optuna")
    suggester = kind(ALL, seed=0)
    scores = []
    for _ in range(90):
        suggestion = suggester.suggest()
        assert all(n is None or 0 <= n < len(d.options) for n, d in zip(suggestion, ALL, strict=True))
        scores.append(_score(suggestion))
        suggester.tell(suggestion, scores[-1] if scores[-1] > -3 else float("nan"))
    early, late = scores[:15], scores[-45:]
    assert sum(late) / 45 > sum(early) / 15 + 0.2
    assert max(scores) == 0


@pytest.mark.parametrize("kind", [RandomSampler, OptunaSampler])
def test_a_seed_gives_the_same_suggestions(kind: type) -> None:
    if kind is OptunaSampler:
        pytest.importorskip("optuna")

    def run(seed: int) -> list[object]:
        suggester = kind(ALL, seed=seed)
        found = []
        for _ in range(12):
            found.append(suggester.suggest())
            suggester.tell(found[-1], _score(found[-1]))
        return found

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_without_optuna_draws_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(make_sampler(ALL, 0), RandomSampler)


def test_the_rate_of_a_suggestion_holds_for_its_optimizer() -> None:
    edits = edits_of((3, None, 0), ALL)
    assert edits == (SwapOptimizer("adam", 1e-3), SetLearningRate(1e-3))
    assert edits_of((None, 1, None), ALL) == (SetBatchSize(16),)
