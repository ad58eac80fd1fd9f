"""Edits refuse values that make no sense, say what is accepted, and come back from JSON unchanged."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from autotrainer import edits as e
from autotrainer.errors import ConfigError
from autotrainer.testing import every_edit

REFUSED: list[tuple[Any, tuple[Any, ...], str]] = [
    (e.SetBatchSize, (0,), "size must be a whole number >= 1, not 0"),
    (e.SetBatchSize, ("x",), "size must be a whole number >= 1, not 'x'"),
    (e.SetBatchSize, (True,), "size must be a whole number >= 1, not True"),
    (e.SetBatchSize, (2.5,), "size must be a whole number >= 1"),
    (e.SetBatchSize, (10**30,), "size must be a whole number"),
    (e.SetBatchSize, (10**5000,), "not a value of type int"),
    (e.ClipGradients, ("norm", -1), "limit must be a number > 0, not -1"),
    (e.ClipGradients, ("norm", math.nan), "limit must be a number > 0, not nan"),
    (e.ClipGradients, ("nrom", 1.0), "kind must be one of value, norm, not 'nrom': did you mean 'norm'?"),
    *((e.SetLearningRate, (rate,), "value must be a number > 0") for rate in (0, -1, math.nan, math.inf, None, True)),
    (e.SwapOptimizer, ("rmsprob", 0.1), "did you mean 'rmsprop'?"),
    (e.SwapOptimizer, ("adam", 0.0), "learning_rate must be a number > 0"),
    (e.SwapOptimizer, ("adam", 0.1, 0.9), "adam has no momentum: leave momentum at 0"),
    (e.SwapOptimizer, ("sgd", 0.1, 0.9, -1.0), "weight_decay must be a number >= 0"),
    (e.SetMomentum, (1.0,), "value must be a number >= 0 and < 1"),
    (e.SetMomentum, (-0.1,), "value must be a number >= 0 and < 1"),
    (e.SetMomentum, (0.9, 1), "nesterov must be True or False, not 1"),
    (e.SetWeightDecay, (-1.0,), "value must be a number >= 0"),
    (e.ReduceOnPlateau, (2.0,), "factor must be a number > 0 and < 1"),
    (e.ReduceOnPlateau, (0.5, -1), "patience must be a whole number >= 0"),
    (e.ReduceOnPlateau, (0.5, 1, 1.0), "floor must be a number >= 0 and < 1"),
    (e.ExtendTraining, (0,), "epochs must be a whole number >= 1"),
    (e.StopEarly, (0,), "patience must be a whole number >= 1"),
    (e.TuneAdam, (1.0,), "beta_2 must be a number >= 0 and < 1 or None"),
    (e.SetLoss, ("hinge", "logits"), "name must be one of cross_entropy"),
    (e.SetLoss, ("cross_entropy", "values"), "expects may be logits or probabilities or log_probabilities"),
    (e.AddInputNoise, (-1.0,), "std must be a number > 0 and <= 1"),
    (e.AddDropout, (("a",), 1.5), "rate must be a number > 0 and < 1"),
    (e.AddDropout, (("a",), 1.0), "rate must be a number > 0 and < 1"),
    (e.AddDropout, ((), 0.5), "layers must be a tuple of one or more names, not ()"),
    (e.AddDropout, (("a", 3), 0.5), "layers must be a tuple of names"),
    (e.AddDropout, (("",), 0.5), "layers must be a tuple of names"),
    (e.LimitDropout, (1.0,), "rate must be a number >= 0 and < 1"),
    (e.AddActivation, (("a",), "rellu"), "did you mean 'relu'?"),
    (e.AddActivation, ((), "relu"), "layers must be a tuple of one or more names, not ()"),
    (e.SwapActivation, (("a",), "rellu"), "did you mean 'relu'?"),
    (e.SwapActivation, (("a",), "relu", True, (-1,)), "calls must be a tuple of whole numbers >= 0"),
    (e.SetOutputActivation, ("silly",), "to must be one of linear, relu"),
    (e.Reinitialize, (("a",), "he_unifrom"), "did you mean 'he_uniform'?"),
    (e.InsertNormalization, (("a",), "instance"), "kind must be one of batch, layer, group"),
    (e.ResizeLayers, (("a",), ()), "one number for each layer"),
    (e.ResizeLayers, (("a",), (0,)), "units must be a tuple of whole numbers >= 1 and <= 1e+06"),
    (e.ResizeLayers, (("a",), (8,), ("b",), (1.5,)), "inputs must be a tuple of whole numbers >= 1"),
    (e.ResizeLayers, (("a", "a"), (8, 16)), "named twice"),
    (e.ResizeOutputLayer, (0,), "units must be a whole number >= 1 and <= 1e+06"),
    (e.ResizeOutputLayer, (True,), "units must be a whole number"),
    (e.ResizeOutputLayer, (2, ("a", "b")), "takes one layer, not 2"),
    (e.ResizeOutputLayer, (2, ("a",), ("b",)), "as many numbers of inputs as followers"),
    (e.ScaleOutputLayer, (1.0,), "factor must be a number > 0 and < 1"),
    (e.ScaleOutputLayer, (math.nan,), "factor must be a number > 0 and < 1"),
    (e.ClipAttention, (("a",), 0.0), "limit must be a number > 0"),
    (e.ClipAttention, (("a",), math.inf), "limit must be a number > 0"),
    (e.ScaleInputs, ((0.0,), (0,)), "std must be a tuple of numbers > 0"),
    (e.ScaleInputs, ((0.0, 1.0), (1.0,)), "2 means and 1 standard deviations"),
    (e.ScaleInputs, ((math.nan,), (1.0,)), "mean must be a tuple of finite numbers"),
    (e.ScaleInputs, ((0.0,), (5e-324,)), "must lie within single precision"),
    (e.ScaleTargets, ((1e300,), (1.0,)), "must lie within single precision"),
    (e.EncodeTargets, ("zero_one", (-1e308, 1e308)), "the lower one first"),
    (e.NumberClasses, ((0,), 1e300), "fill must be a number"),
    (e.NumberClasses, ((2**62,),), "labels must be a tuple of whole numbers"),
    (e.AddInputNoise, (2.0,), "std must be a number > 0 and <= 1"),
    (e.ResizeLayers, (("a",), (10**9,)), "units must be a tuple of whole numbers >= 1 and <= 1e+06"),
    (e.ScaleTargets, ((), (1.0,)), "0 means and 1 standard deviations"),
    (e.ScaleTargets, ((0.0,), (1.0,), True), "logarithm says whether"),
    (e.ScaleTargets, ((0.0,), (1.0,), True, (0.0,), (1.0,)), "1 scales and 0 reaches"),
    (e.ScaleTargets, ((0.0,), (1.0,), True, (0.0,), (1.0, 2.0), (1.0, 1.0)), "1 centers and 2 scales"),
    (e.ScaleTargets, ((0.0,), (-1.0,)), "std must be a tuple of numbers > 0"),
    (e.EncodeTargets, ("onehot",), "did you mean 'one_hot'?"),
    (e.EncodeTargets, ("zero_one", (1.0,)), "labels must be a tuple of 2 finite numbers"),
    (e.EncodeTargets, ("zero_one", (1.0, 1.0)), "the lower one first"),
    (e.NumberClasses, ((3, 2),), "labels in rising order"),
    (e.NumberClasses, ((-1, 2),), "labels must be a tuple of whole numbers >= 0 and <= 1e+06"),
    (e.NumberClasses, ((), math.inf), "fill must be a number >= -1e+38 and <= 1e+38"),
    (e.WeightClasses, ((1.0, -1.0),), "weights must be a tuple of numbers >= 0"),
    (e.WeightClasses, ((0.0, 0.0),), "needs a weight above 0"),
    (e.DropBadRows, (-1,), "rows must be a whole number >= 0 or None"),
]


@pytest.mark.parametrize(("kind", "values", "message"), REFUSED)
def test_values_that_make_no_sense_are_refused(kind: Any, values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(*values)
    assert kind.__name__ in str(caught.value)
    assert message in str(caught.value)


NESTED: Any = []
for _ in range(10_000):
    NESTED = [NESTED]

GARBAGE: list[Any] = [
    object(),
    {},
    [None],
    NESTED,
    {"a": NESTED},
    b"x",
    math.nan,
    -math.inf,
    10**5000,
    ((),),
]


@pytest.mark.parametrize("edit", every_edit(("a", "b")), ids=lambda edit: type(edit).__name__)
def test_garbage_is_refused_in_every_field(edit: e.Edit) -> None:
    for field in fields(edit):
        for value in GARBAGE:
            with pytest.raises(ConfigError, match=f"{type(edit).__name__}: {field.name} must be"):
                replace(edit, **{field.name: value})  # type: ignore[call-arg]
            with pytest.raises(ConfigError):
                e.edit_from_dict({**edit.to_dict(), field.name: value})


@pytest.mark.parametrize(
    "values",
    [
        *GARBAGE,
        None,
        {"edit": None},
        {"edit": NESTED},
        {"edit": 10**5000},
        {"edit": "x" * 10**6},
        {"edit": "SetBatchSize"},
        {"edit": "SetBatchSize", "size": 1, "sizes": 2},
        {"edit": "SetBatchSize", "size": 1, 3: 4},
        {"edit": "SetBatchSize", "size": 1, (1, 2): NESTED},
        {"edit": "Edit"},
    ],
    ids=lambda values: type(values).__name__,
)
def test_mappings_that_are_not_an_edit_are_refused(values: Any) -> None:
    with pytest.raises(ConfigError):
        e.edit_from_dict(values)


def test_unknown_kinds_and_fields_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'SetBatchSize'"):
        e.edit_from_dict({"edit": "SetBatchSiz", "size": 1})
    with pytest.raises(ConfigError, match="did you mean 'size'"):
        e.edit_from_dict({"edit": "SetBatchSize", "siz": 1})
    with pytest.raises(ConfigError, match="ClipGradients is incomplete: it needs limit"):
        e.edit_from_dict({"edit": "ClipGradients", "kind": "norm"})


@pytest.mark.parametrize("edit", every_edit(("a", "b")), ids=lambda edit: type(edit).__name__)
def test_every_edit_comes_back_from_json(edit: e.Edit) -> None:
    assert e.edit_from_dict(json.loads(json.dumps(edit.to_dict()))) == edit
    assert str(edit)
    assert not str(edit).endswith(".")
    assert "\n" not in str(edit)
    assert 0 <= edit.change <= 3


def test_numbers_of_numpy_are_accepted() -> None:
    assert e.SetBatchSize(np.int64(8)).size == 8
    assert e.SetLearningRate(np.float32(0.5)).value == 0.5
    assert e.WeightClasses((np.float64(1.0), 2)).weights == (1.0, 2.0)


@pytest.mark.parametrize(
    ("edit", "values"),
    [
        (e.SetBatchSize(np.int64(4)), {"size": 4}),  # type: ignore[arg-type]
        (e.SetLearningRate(np.float32(0.5)), {"value": 0.5}),  # type: ignore[arg-type]
        (e.SetLearningRate(np.array(0.5)), {"value": 0.5}),  # type: ignore[arg-type]
        (e.ScaleInputs(np.array([1.0, 2.0]), [1.0, 2.0]), {"mean": (1.0, 2.0), "std": (1.0, 2.0)}),  # type: ignore[arg-type]
        (e.ReviveUnits(["a", "b"]), {"layers": ("a", "b")}),  # type: ignore[arg-type]
    ],
)
def test_scalars_and_sequences_become_plain_values(edit: e.Edit, values: dict[str, Any]) -> None:
    assert {name: getattr(edit, name) for name in values} == values
    assert json.loads(json.dumps(edit.to_dict()))["edit"] == type(edit).__name__
    hash(edit)
