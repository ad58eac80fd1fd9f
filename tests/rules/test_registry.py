from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer import registry
from autotrainer.records.facts import FACTS
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS
from autotrainer.rule import DOC_SECTIONS, Rule
from autotrainer.rules import BUILTIN

RUNS: list[dict[str, Any]] = [
    {},
    {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}, "epochs": {"val_loss": lambda e: 0.7}},
    {"losses": lambda t: 1.0, "targets": "flat", "loss": "mse", "scalars": {"squared_error": 1.0}},
    {"losses": lambda t: 1.0, "targets": "real", "loss": "mse", "table": {"dead_units": 1.0, "grad_norm": 0.0}},
    {"losses": lambda t: np.inf, "targets": "index", "loss": "ce", "output_units": 4, "output_activation": None},
]

every_rule = pytest.mark.parametrize("rule", BUILTIN, ids=lambda rule: rule.problem)


def test_names_codes_and_aliases_are_unique() -> None:
    names = [name for rule in BUILTIN for name in (rule.problem, rule.code.lower(), *rule.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


def test_causes_are_problems_and_form_no_cycle() -> None:
    graph = {rule.problem: set(rule.causes) for rule in BUILTIN}
    assert set().union(*graph.values()) <= set(graph)
    assert set(TopologicalSorter(graph).static_order()) == set(graph)  # a cycle raises


def test_a_phrase_belongs_to_one_rule() -> None:
    phrases = [phrase for rule in BUILTIN for phrase in rule.phrases]
    assert sorted(phrases) == sorted(set(phrases))


def test_rules_are_listed_by_code_and_every_file_is_a_rule() -> None:
    assert [rule.code for rule in BUILTIN] == sorted(rule.code for rule in BUILTIN)
    folder = Path(__file__).parents[2] / "rules"
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert files == {rule.problem for rule in BUILTIN}


@every_rule
def test_page_has_all_sections_in_order(rule: type[Rule]) -> None:
    lines = rule.documentation().splitlines()
    assert [line for line in lines if line in DOC_SECTIONS] == list(DOC_SECTIONS)
    for heading in DOC_SECTIONS:
        assert lines[lines.index(heading) + 1].strip(), heading
    assert len(lines[0]) <= 120


@every_rule
def test_thresholds_have_description_and_source(rule: type[Rule]) -> None:
    page = rule.documentation()
    for name, threshold in rule.THRESHOLDS.items():
        assert threshold.about
        assert threshold.source
        assert threshold.minimum <= threshold.default <= threshold.maximum
        assert f"``{name}``" in page, f"{name} is missing on the page"


@every_rule
def test_needs_are_existing_columns(rule: type[Rule]) -> None:
    assert rule.needs <= {*STEP_COLUMNS, *LAYER_COLUMNS, *FACTS, "epochs"}


@every_rule
@pytest.mark.parametrize("case", RUNS)
def test_rules_read_only_what_they_need(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rule: type[Rule], case: dict[str, Any]
) -> None:
    history, context = build(**case)
    read = set[str]()
    for method in ("scalar", "layer"):
        plain = getattr(RunHistory, method)
        monkeypatch.setattr(RunHistory, method, lambda self, name, plain=plain: read.add(name) or plain(self, name))
    rule().check(history, context)
    assert read <= rule.needs


@every_rule
def test_phrases_are_few_short_and_lower_case(rule: type[Rule]) -> None:
    assert not rule.phrases or 3 <= len(rule.phrases) <= 8
    assert all(phrase == phrase.lower().strip() and len(phrase) <= 60 for phrase in rule.phrases)


@every_rule
def test_repairs_are_registered(rule: type[Rule]) -> None:
    registered = {repair.name for repair in registry.repairs()}
    if not registered:
        pytest.skip("no repairs are registered")
    advice_only = {
        "abnormal_normalization",
        "data_leakage",
        "ignored_input",
        "broken_attention_mask",
        "ignored_positions",
        "rows_mixed",
        "unstable_evaluation",
        "unlearnable_targets",
        "repeated_augmentation",
        "repeated_batch",
        "shuffled_labels",
        "validation_mismatch",
        "replica_desync",
        "embedding_unused",
        "checkpoint_not_loaded",
        "bad_resume",
        "recreated_optimizer",
        "padded_targets",
        "wrong_backward",
    }
    assert bool(rule.repairs) is (rule.problem not in advice_only)
    assert set(rule.repairs) <= registered


@every_rule
def test_every_rule_has_a_test_file(rule: type[Rule]) -> None:
    assert (Path(__file__).parent / f"test_{rule.problem}.py").exists()


PAPER = {
    "beta_1": ("vanishing_gradient", 1e-3),
    "beta_2": ("vanishing_gradient", 1e-4),
    "beta_3": ("exploding_gradient", 70),
    "gamma": ("dying_relu", 0.7),
    "zeta": ("oscillating_loss", 0.03),
    "eta": ("oscillating_loss", 0.2),
    "delta": ("slow_convergence", 0.01),
    "Theta": ("vanishing_gradient", 0.7),
    "omega_1": ("abnormal_data", 10),
    "omega_2": ("improper_output_activation", 1),
    "alpha_1": ("vanishing_gradient", 0),
    "alpha_2": ("exploding_gradient", 0),
    "alpha_3": ("dying_relu", 0),
}


def test_thresholds_of_the_papers_keep_names_and_defaults() -> None:
    aliases = {
        t.alias: (rule.problem, t.default) for rule in BUILTIN for t in rule.THRESHOLDS.values() if t.alias is not None
    }
    assert aliases == PAPER
    registry.make_rules(thresholds={name: default for name, (_, default) in PAPER.items()})
