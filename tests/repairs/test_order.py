"""Tests of the repairs that bring tokens or outputs into the order that was meant, and of those for Keras alone."""

from __future__ import annotations

import pytest

from autotrainer.edits import Edit, LeadPadding, RestoreAxes, ScaleEachTarget, StandardStep
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import LossInfo, TargetSummary, TaskContext
from autotrainer.repairs.lead_padding import LeadPaddingRepair
from autotrainer.repairs.replace_train_step import ReplaceTrainStepRepair
from autotrainer.repairs.restore_axes import RestoreAxesRepair
from autotrainer.repairs.scale_each_target import ScaleEachTargetRepair


def _finding(problem: str, evidence: dict[str, float]) -> Finding:
    return Finding(problem, "AT101", Severity.ERROR, 0.9, message="", evidence=evidence)


@pytest.mark.parametrize(
    ("evidence", "rank", "edits"),
    [
        ({"equal_indices": 0.8}, 1, [LeadPadding()]),
        ({"equal_indices": 0.8}, 3, []),  # targets by position
        ({"equal_indices": 0.05}, 1, []),  # words
        ({"ratio": 1e-9}, 1, []),  # other layers
    ],
)
def test_padding_is_moved_where_a_layer_forgets_padded_tokens(
    evidence: dict[str, float], rank: int, edits: list[Edit]
) -> None:
    proposals = LeadPaddingRepair().propose(
        _finding("vanishing_gradient", evidence), TaskContext(), TargetSummary(rank=rank)
    )
    assert [edit for proposal in proposals for edit in proposal.edits] == edits


@pytest.mark.parametrize(
    ("evidence", "edits"),
    [
        ({"reordered_classes": 4.0, "reordered_steps": 12.0}, [RestoreAxes(4, 12)]),
        ({"target_width": 4.0}, []),  # another mismatch
    ],
)
def test_axes_are_exchanged_where_a_reshape_is_proven(evidence: dict[str, float], edits: list[Edit]) -> None:
    proposals = RestoreAxesRepair().propose(_finding("target_mismatch", evidence), TaskContext(), TargetSummary())
    assert [edit for proposal in proposals for edit in proposal.edits] == edits


KERAS, OWN = TaskContext(framework="keras3"), TaskContext(framework="keras3", loss=LossInfo("none", "none"))
TORCH = TaskContext(framework="pytorch")


@pytest.mark.parametrize(
    ("problem", "context", "edits"),
    [
        ("parameters_not_optimized", KERAS, [StandardStep()]),
        ("not_learning", OWN, [StandardStep()]),  # the model computes its loss itself
        ("not_learning", KERAS, []),
        ("parameters_not_optimized", TORCH, []),
    ],
)
def test_own_step_is_replaced_where_it_may_be_wrong(problem: str, context: TaskContext, edits: list[Edit]) -> None:
    proposals = ReplaceTrainStepRepair().propose(_finding(problem, {}), context, TargetSummary())
    assert [edit for proposal in proposals for edit in proposal.edits] == edits


@pytest.mark.parametrize(("context", "edits"), [(KERAS, [ScaleEachTarget()]), (TORCH, [])])
def test_targets_of_several_outputs_are_scaled_in_keras(context: TaskContext, edits: list[Edit]) -> None:
    proposals = ScaleEachTargetRepair().propose(_finding("loss_term_imbalance", {}), context, TargetSummary())
    assert [edit for proposal in proposals for edit in proposal.edits] == edits
