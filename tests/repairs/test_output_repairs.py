"""What the repairs of the output layer propose, and where they keep quiet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autotrainer.adapter.spec import Support, SupportLevel
from autotrainer.edits import (
    Edit,
    ReshapeTargets,
    ResizeOutputLayer,
    ScaleInputs,
    ScaleTargets,
    SetLoss,
    SetOutputActivation,
)
from autotrainer.records.findings import Severity
from autotrainer.records.task import LossInfo, TargetSummary
from autotrainer.repairs.resize_output_layer import ResizeOutputLayerRepair
from autotrainer.repairs.scale_inputs import ScaleInputsRepair
from autotrainer.repairs.scale_targets import ScaleTargetsRepair
from autotrainer.search.planner import Planner

MSE = LossInfo("MSELoss", "squared_error", "values")
BCE = LossInfo("BCELoss", "binary_cross_entropy", "probabilities")
BCE_LOGITS = LossInfo("BCEWithLogitsLoss", "binary_cross_entropy", "logits")
CE = LossInfo("CrossEntropyLoss", "cross_entropy", "logits", "either", 1)
ONE_HOT = LossInfo("categorical_crossentropy", "cross_entropy", "probabilities", "one_hot")
SOFTMAX = (SetOutputActivation("softmax"), SetLoss("cross_entropy", "probabilities"))
INDICES = {"minimum": 0.0, "maximum": 2.0, "values": (0.0, 1.0, 2.0), "classes": 3, "integral": True}


def summary(**values: Any) -> TargetSummary:
    return TargetSummary(**{"count": 100, "rows": 100, "rank": 1, "variance": 1.0, "mean": 0.0, **values})


@pytest.mark.parametrize(
    ("changes", "targets", "edits"),
    [
        ({"loss": BCE}, INDICES, (ResizeOutputLayer(3), *SOFTMAX)),
        ({"loss": MSE}, INDICES, (ResizeOutputLayer(3), *SOFTMAX)),
        ({"loss": LossInfo("mine")}, {**INDICES, "rank": 2}, (ResizeOutputLayer(3), *SOFTMAX)),
        ({"loss": BCE_LOGITS, "output_activation": "linear"}, INDICES,
         (ResizeOutputLayer(3), SetLoss("cross_entropy", "logits"))),
        ({"loss": BCE}, {**INDICES, "minimum": 1.0, "maximum": 3.0, "values": (1.0, 2.0, 3.0)},
         (ResizeOutputLayer(4), *SOFTMAX)),
        ({"loss": CE, "output_units": 2, "output_activation": "linear"}, INDICES, (ResizeOutputLayer(3),)),
        ({"loss": ONE_HOT, "output_units": 6, "output_activation": "softmax"},
         {"one_hot": True, "width": 4, "rank": 2, "classes": 4, "minimum": 0.0, "maximum": 1.0},
         (ResizeOutputLayer(4),)),
        ({"loss": MSE, "output_activation": "tanh", "output_rank": 2, "framework": "pytorch"},
         {"width": 3, "rank": 2, "minimum": -5.0, "maximum": 5.0},
         (ResizeOutputLayer(3), SetOutputActivation("linear"))),
        ({"loss": MSE, "output_activation": "linear", "output_rank": 2, "output_units": 3, "framework": "pytorch"},
         {"minimum": -5.0, "maximum": 5.0}, (ResizeOutputLayer(1), ReshapeTargets())),
        ({"loss": BCE, "output_rank": 2},
         {"width": 3, "rank": 2, "minimum": 0.0, "maximum": 1.0, "values": (0.0, 1.0), "integral": True, "classes": 2},
         (ResizeOutputLayer(3),)),
    ],
)  # fmt: skip
def test_output_has_the_units_that_targets_need(
    finding: Any, context: Any, changes: dict[str, Any], targets: dict[str, Any], edits: tuple[Edit, ...]
) -> None:
    proposals = list(
        ResizeOutputLayerRepair().propose(finding("improper_loss"), context(**changes), summary(**targets))
    )
    assert [proposal.edits for proposal in proposals] == [edits]


@pytest.mark.parametrize(
    ("changes", "targets"),
    [
        ({"loss": CE, "output_units": 5, "output_activation": "linear"}, INDICES),
        ({"loss": CE, "output_units": None}, INDICES),
        ({"loss": MSE, "output_activation": "linear"}, INDICES),
        ({"loss": MSE}, {**INDICES, "values": (0.0, 2.0, 5.0), "maximum": 5.0}),
        ({"loss": CE, "output_units": 2}, {**INDICES, "values": (7.0, 70.0, 700.0), "minimum": 7.0, "maximum": 700.0}),
        ({"loss": MSE}, {**INDICES, "rank": 4}),
        ({"loss": BCE, "output_rank": 3},
         {"width": 6, "rank": 2, "minimum": 0.0, "maximum": 1.0, "values": (0.0, 1.0), "integral": True, "classes": 2}),
        ({"loss": BCE}, {"minimum": 0.0, "maximum": 1.0, "values": (0.0, 1.0), "integral": True, "classes": 2}),
        ({"loss": MSE, "output_rank": None}, {"width": 3, "rank": 2, "minimum": 0.0, "maximum": 5.0}),
    ],
    ids=["wide enough", "unknown", "regression", "gaps", "codes", "image", "steps", "labels", "unknown shapes"],
)  # fmt: skip
def test_output_keeps_its_units(finding: Any, context: Any, changes: dict[str, Any], targets: dict[str, Any]) -> None:
    assert not list(ResizeOutputLayerRepair().propose(finding("improper_loss"), context(**changes), summary(**targets)))


def test_targets_far_out_are_looked_at_for_a_logarithm_first(finding: Any, context: Any) -> None:
    unscaled, linear = finding("unscaled_targets"), context(loss=MSE, output_activation="linear")
    far = {"minimum": 1.0, "maximum": 1e6, "mean": 2e4, "variance": 1e9}
    proposed = ScaleTargetsRepair().propose(unscaled, linear, summary(**far))
    assert [p.edits for p in proposed] == [(ScaleTargets(logarithm=True),), (ScaleTargets(),)]
    near = {**far, "maximum": 5e4}
    proposed = ScaleTargetsRepair().propose(unscaled, linear, summary(**near))
    assert [p.edits for p in proposed] == [(ScaleTargets(),)]


FREED = (SetOutputActivation("linear"), ScaleTargets())


@pytest.mark.parametrize(
    ("changes", "targets", "edits"),
    [
        ({"loss": MSE, "output_activation": "relu"}, {"minimum": -5.0, "maximum": -1.0, "mean": -3.0}, [FREED]),
        ({"loss": MSE, "output_activation": "relu"}, {"minimum": -2.0, "maximum": 2.0, "variance": 1.0}, []),
        ({"loss": MSE}, {"minimum": 0.0, "maximum": 255.0, "mean": 100.0, "variance": 900.0},
         [FREED, (ScaleTargets((127.5 * (1 - 3**0.5),), (255 * 3**0.5,)),)]),
        ({"loss": MSE, "output_activation": "tanh"}, {"minimum": 0.0, "maximum": 10.0, "mean": 5.0, "variance": 16.0},
         [(ScaleTargets((5.0,), (5 * 3**0.5,)),), FREED]),
        ({"loss": BCE}, {"minimum": 0.0, "maximum": 255.0, "mean": 127.0, "variance": 1e4},
         [(ScaleTargets((0.0,), (255.0,)),),
          (SetOutputActivation("linear"), SetLoss("squared_error", "values"), ScaleTargets((127.0,), (100.0,)))]),
        ({"loss": BCE_LOGITS, "output_activation": "linear"},
         {"minimum": 0.0, "maximum": 50.0, "mean": 20.0, "variance": 100.0},
         [(SetLoss("squared_error", "values"), ScaleTargets((20.0,), (10.0,)))]),
        ({"loss": BCE}, {"minimum": 0.0, "maximum": 1.0, "mean": 0.5, "variance": 0.1}, []),
        ({"loss": MSE}, INDICES, []),
        ({"loss": BCE}, {**INDICES, "values": (1.0, 2.0), "minimum": 1.0, "classes": 2}, []),
    ],
)  # fmt: skip
def test_targets_come_within_reach_of_the_output(
    finding: Any, context: Any, changes: dict[str, Any], targets: dict[str, Any], edits: list[tuple[Edit, ...]]
) -> None:
    proposals = list(
        ScaleTargetsRepair().propose(finding("improper_output_activation"), context(**changes), summary(**targets))
    )
    assert [_rounded(proposal.edits) for proposal in proposals] == [_rounded(each) for each in edits]


def _rounded(edits: tuple[Edit, ...]) -> list[Any]:
    return [
        replace(e, mean=tuple(round(m, 6) for m in e.mean), std=tuple(round(s, 6) for s in e.std))
        if isinstance(e, ScaleTargets)
        else e
        for e in edits
    ]


def _always(*_: Any) -> Support:
    return Support(SupportLevel.REBUILD)


def test_edits_are_judged_together_with_the_width_of_the_output(finding: Any, context: Any) -> None:
    asked: list[tuple[Edit, ...]] = []

    def supports_together(edits: Any) -> Support:
        asked.append(tuple(edits))
        return Support(SupportLevel.NONE, "the layer is frozen")

    planner = Planner([ResizeOutputLayerRepair], _always, supports_together=supports_together)
    found = [finding("improper_loss")]
    assert planner.proven(found, context(loss=BCE), summary(**INDICES)) is None
    assert asked == [(ResizeOutputLayer(3), *SOFTMAX)]
    assert planner.notes == {"resize_output_layer": "the layer is frozen"}
    planner = Planner([ResizeOutputLayerRepair], _always, supports_together=_always)
    step = planner.proven(found, context(loss=BCE), summary(**INDICES))
    assert step is not None
    assert step.edits == asked[0]
    assert planner.proven(found, context(loss=BCE), summary(**INDICES)) == step
    assert (
        Planner([ResizeOutputLayerRepair], _always, max_change=2).proven(found, context(loss=BCE), summary(**INDICES))
        is None
    )


def test_unscaled_inputs_are_repaired_along_with_a_proven_error(finding: Any, context: Any) -> None:
    warning = replace(finding("abnormal_data"), severity=Severity.WARNING)
    planner = Planner([ScaleTargetsRepair, ScaleInputsRepair], _always)
    task, targets = context(loss=MSE, output_activation="relu"), summary(minimum=-5.0, maximum=-1.0, mean=-3.0)
    step = planner.proven([finding("improper_output_activation"), warning], task, targets)
    assert step is not None
    assert step.edits == (*FREED, ScaleInputs())
    assert step.problems == ("improper_output_activation", "abnormal_data")
    assert planner.proven([warning], task, targets) is None
