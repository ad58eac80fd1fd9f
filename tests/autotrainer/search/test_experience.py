"""What repairs have done before: how it corrects declared effects, its file, and the order of proposals."""

from __future__ import annotations

import math

import pytest

from autotrainer.edits import InsertNormalization, SetLearningRate, SwapOptimizer
from autotrainer.errors import ConfigError
from autotrainer.search import experience as module
from autotrainer.search.experience import Experience, Outcome, declared_effects, variant

LEARNED = Experience(
    {"not_learning": {"swap_optimizer adam": Outcome(8.0, 8.0), "swap_optimizer sgd": Outcome(8.0, 0.0)}}, weight=8
)


@pytest.mark.parametrize(
    ("problem", "name", "effect"),
    [
        ("not_learning", "swap_optimizer adam", (8 * 0.25 + 8) / 16),  # others: 0.25, then 8 of 8
        ("not_learning", "swap_optimizer sgd", (8 * 0.75 + 0) / 16),
        ("not_learning", "swap_optimizer nadam", 0.5),  # as declared: 8 of 16 is the same
        ("not_learning", "swap_activation relu", 0.5),
        ("oscillating_loss", "swap_optimizer adam", 0.5),
    ],
)
def test_outcomes_correct_the_declared_effect(problem: str, name: str, effect: float) -> None:
    assert LEARNED.effect(problem, name, 0.5) == pytest.approx(effect)


def test_effects_stay_probabilities() -> None:
    for declared in (0.0, 0.5, 1.0):
        for name in ("swap_optimizer adam", "swap_optimizer sgd"):
            assert 0 <= LEARNED.effect("not_learning", name, declared) <= 1


@pytest.mark.parametrize(
    ("edits", "name"),
    [
        ((SetLearningRate(0.1),), "x rate 1e+1"),
        ((SetLearningRate(1e-9),), "x rate 1e-3"),
        ((SwapOptimizer("adam", 0.001),), "x adam"),
        ((SwapOptimizer("adam", 0.001), SetLearningRate(5.0)), "x adam"),
        ((InsertNormalization(("a", "b"), "layer"),), "x layer"),
    ],
)
def test_variants_tell_choices_apart_but_not_layers(edits: tuple[object, ...], name: str) -> None:
    assert variant("x", edits, 0.01) == name  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [math.nan, math.inf, 0.0])
def test_a_rate_that_is_unknown_is_no_choice(rate: float) -> None:
    assert variant("x", (SetLearningRate(0.1),), rate) == "x"


def test_any_change_of_the_rate_has_a_name() -> None:
    assert variant("x", (SetLearningRate(1e308),), 5e-324) == "x rate 1e+3"


def test_file_round_trip() -> None:
    again = Experience.parse(LEARNED.text({"programs": 16}))
    assert again.text({"programs": 16}) == LEARNED.text({"programs": 16})
    assert again.effect("not_learning", "swap_optimizer adam", 0.5) == LEARNED.effect(
        "not_learning", "swap_optimizer adam", 0.5
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "weight": 1, "outcomes": {}}', '{"format": 1}'])
def test_a_damaged_file_is_reported(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Folder:
        def __truediv__(self, name: str) -> Folder:
            return self

        def read_text(self, encoding: str) -> str:
            return text

    monkeypatch.setattr(module, "files", lambda package: Folder())
    Experience.installed.cache_clear()
    with pytest.raises(ConfigError, match="install autotrainer again"):
        Experience.installed()
    Experience.installed.cache_clear()


def test_installed_experience_is_of_existing_repairs_and_problems() -> None:
    declared = declared_effects()
    outcomes = Experience.installed()._outcomes
    assert outcomes
    for problem, variants in outcomes.items():
        for name, (programs, gain) in variants.items():
            assert problem in declared[name.split(" ")[0]], (problem, name)
            assert 0 <= gain <= programs
