from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from autotrainer.cli import main
from autotrainer.demo import demo
from autotrainer.demo.cases import CASES, Recipe
from autotrainer.demo.data import load
from autotrainer.errors import ConfigError
from autotrainer.records.findings import Finding, Severity


@pytest.mark.parametrize("name", ["circle", "blob"])
def test_embedded_arrays_equal_those_of_scikit_learn(name: str) -> None:
    from sklearn.datasets import make_blobs, make_circles

    split = load(name)
    if name == "circle":
        x, y = make_circles(1000, noise=0.1, random_state=1)
    else:
        x, y = make_blobs(1000, centers=3, n_features=2, cluster_std=2, random_state=2)
    np.testing.assert_allclose(np.concatenate([split.train[0], split.validation[0]]), x, rtol=1e-5)
    np.testing.assert_array_equal(np.concatenate([split.train[1], split.validation[1]]), y)
    assert [len(part[1]) for part in split] == [700, 300, 1000]
    for part in (split.train, split.test):
        np.testing.assert_allclose(part[0].mean(0), split.validation[0].mean(0), atol=1.0)


@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
@pytest.mark.parametrize("recipe", [r for case in CASES for r in (case.faulty, case.twin)])
def test_frameworks_build_the_same_network(framework: str, recipe: Recipe) -> None:
    from importlib import import_module

    arguments: dict[str, Any] = import_module(f"autotrainer.demo.{framework}").fit_arguments(recipe)
    model = arguments["model"]
    weights = model.get_weights() if framework == "keras3" else [p.detach().numpy() for p in model().parameters()]
    sizes = [2, *(layer.units for layer in recipe.layers)]
    assert sum(w.size for w in weights) == sum((a + 1) * b for a, b in pairwise(sizes))
    assert arguments["epochs"] == recipe.epochs


def test_missing_framework_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'autotrainer-monitor\[torch\]'"):
        demo.run_demo("pytorch")
    with pytest.raises(ConfigError, match=r"pip install 'autotrainer-monitor\[all\]'"):
        demo.run_demo()


class _Result:
    status = "repaired"
    findings = (Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, "m"),)


@pytest.mark.parametrize(
    ("status", "problem", "twin", "passed"),
    [
        ("repaired", "vanishing_gradient", Severity.INFO, True),
        ("repaired", "dying_relu", Severity.INFO, False),
        ("improved", "vanishing_gradient", Severity.INFO, False),
        ("repaired", "vanishing_gradient", Severity.WARNING, False),
    ],
)
def test_case_passes_if_found_and_repaired_with_a_quiet_twin(
    status: str, problem: str, twin: Severity, passed: bool
) -> None:
    result = _Result()
    result.status = status
    result.findings = (replace(_Result.findings[0], problem=problem),)
    quiet = (Finding("x", "AT999", twin, 0.9, "m"),)
    assert demo.CaseOutcome("pytorch", CASES[0], result, quiet).passed is passed  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_demo_finds_and_repairs_all_cases(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--framework", framework]) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 found and repaired with a quiet twin" in printed
