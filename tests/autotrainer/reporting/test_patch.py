"""The text of a plan: what comes first, and in which order."""

from __future__ import annotations

import re

import pytest

from autotrainer import edits as e
from autotrainer import registry
from autotrainer.reporting.patch import in_patch_order, patch_lines
from autotrainer.reporting.plan import RepairPlan
from autotrainer.testing import every_edit


def test_edits_that_use_the_optimizer_come_after_those_that_create_it() -> None:
    edits = (e.DecayRate(steps=9), e.WarmUpRate(3), e.ReduceOnPlateau(), e.TuneAdam(0.95), e.SetWeightDecay(0.1),
             e.SetLearningRate(0.1), e.SwapOptimizer("adam", 0.2), e.Reinitialize(("0",), "he_uniform"))  # fmt: skip
    assert [type(edit) for edit in in_patch_order(edits)] == [
        e.Reinitialize, e.SetLearningRate, e.SwapOptimizer, e.SetWeightDecay, e.TuneAdam, e.ReduceOnPlateau,
        e.WarmUpRate, e.DecayRate,
    ]  # fmt: skip
    for framework, schedule in (("pytorch", "LambdaLR"), ("keras3", "CosineDecay")):
        text = str(RepairPlan(("x",), edits[:2], framework=framework))
        assert text.count(schedule) == 1, "one schedule, not two that undo each other"


def test_the_model_comes_before_the_optimizer() -> None:
    text = str(RepairPlan(("x",), (e.SwapOptimizer("adam", 1e-3), e.InsertNormalization(("0",)))))
    assert re.findall(r"^\d\. (\S+)", text, re.MULTILINE) == ["`0`:", "optimizer"]
    assert text.index("BatchNorm1d") < text.index("torch.optim.Adam")


def test_plans_of_an_unknown_framework_have_words_only() -> None:
    text = str(RepairPlan(("x",), (e.SetLearningRate(0.1),), framework="unknown"))
    assert text == "1. learning rate 0.1"


@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_every_edit_has_words_and_lines_in_both_backends(framework: str) -> None:
    backend = registry.backend_named(framework)
    assert backend is not None
    for edit in every_edit(("a", "b")):
        assert not str(edit).startswith(type(edit).__name__), "words of its own"
        assert patch_lines(edit, framework, (edit,)) == list(backend.patch(edit)) != []
