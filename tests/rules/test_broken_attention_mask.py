from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.rules.broken_attention_mask import BrokenAttentionMask


def _later(later: float, earlier: float = 0.2, **other: float) -> dict[str, float]:
    facts = {"later_effect": later, "later_noise": 1e-5, "later_reach": 9, "earlier_effect": earlier}
    return {**facts, "earlier_noise": 1e-5, "predicts_next": 1, "attention": 1, **other}


def _padding(effect: float, masked: float = 0, declared: float = 0, attention: float = 0) -> dict[str, float]:
    facts = {"padding_effect": effect, "padding_noise": 1e-4, "padding_masked": masked}
    return {**facts, "padding_declared": declared, "attention": attention}


CASES = [
    pytest.param(_later(0.1), Severity.ERROR, "Pass a causal mask", id="leak"),
    pytest.param(_later(0.0), None, "", id="causal"),
    pytest.param(_later(5e-4), None, "", id="a trace"),
    pytest.param(_later(0.1, predicts_next=0), None, "", id="no next tokens"),
    pytest.param(_later(0.0, earlier=0.0), Severity.ERROR, "No earlier token", id="hides all"),
    pytest.param(_later(0.0, earlier=0.0, attention=0), None, "", id="no layer that looks back"),
    pytest.param(_padding(0.5, masked=1), Severity.WARNING, "an input says", id="mask ignored"),
    pytest.param(_padding(0.5, declared=1, attention=1), Severity.WARNING, "declares", id="declared"),
    pytest.param(_padding(0.5, attention=1), Severity.WARNING, "no mask hides it", id="attention without a mask"),
    pytest.param(_padding(0.5), Severity.INFO, "may be meant", id="no attention"),
    pytest.param(_padding(0.001, masked=1), None, "", id="hidden"),
    pytest.param({}, None, "", id="not probed"),
]


@pytest.mark.parametrize(("facts", "severity", "words"), CASES)
def test_effects(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None, words: str) -> None:
    finding = BrokenAttentionMask().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity
    assert words in ("" if finding is None else finding.message)


@pytest.mark.parametrize(
    ("following", "ahead", "weighted", "expected"),
    [
        pytest.param(1.0, 0.3, False, True, id="attention to the targets"),
        pytest.param(1.0, 0.0, False, False, id="a causal mask"),
        pytest.param(1.0, float("nan"), False, False, id="not measured"),
        pytest.param(1.0, [0.3, 0.0, 0.2], False, False, id="an encoder and attention to it beside a causal decoder"),
        pytest.param(0.0, 0.3, False, False, id="other targets, as of a masked language model"),
        pytest.param(1.0, 0.3, True, False, id="weights, which may leave out a prefix"),
    ],
)
def test_attention_to_later_tokens(
    build: Callable[..., Any], following: float, ahead: Any, weighted: bool, expected: bool
) -> None:
    history, context = build(scalars={"next_targets": following}, table={"attention_ahead": ahead})
    context = replace(context, loss=replace(context.loss, weighted=weighted))
    finding = BrokenAttentionMask().check(history, context)
    assert (finding is not None) == expected
    assert finding is None or finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("shown", "steps", "expected"),
    [
        pytest.param(1.0, 100, True, id="padding alone"),
        pytest.param([float("nan"), 1.0, 0.0], 100, True, id="in one of two attention layers"),
        pytest.param(0.0, 100, False, id="tokens"),
        pytest.param(float("nan"), 100, False, id="not measured"),
        pytest.param(lambda t: float(t > 0), 100, False, id="tokens in the first step"),
        pytest.param(1.0, 2, False, id="two steps"),
    ],
)
def test_a_mask_the_wrong_way_round(build: Callable[..., Any], shown: Any, steps: int, expected: bool) -> None:
    finding = BrokenAttentionMask().check(*build(table={"padding_shown": shown}, steps=steps))
    assert (finding is not None) == expected
    assert finding is None or (finding.severity is Severity.ERROR and "wrong way round" in finding.message)


def test_a_poor_outcome_makes_padding_an_error(build: Callable[..., Any]) -> None:
    stuck = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}, "steps": 600}
    finding = BrokenAttentionMask().check(*build(asked=_padding(0.5, masked=1), **stuck))
    assert finding is not None
    assert finding.severity is Severity.ERROR
