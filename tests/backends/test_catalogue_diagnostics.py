"""Problems that only diagnostics detect: `ignored_input`, `data_leakage`, `unlearnable_targets`, in real trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer import registry
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.edits import Edit, SetLearningRate
from autotrainer.records.data import ArrayData, StreamData
from autotrainer.records.findings import Severity
from autotrainer.reporting.result import Result
from autotrainer.testing import RecordedRun

PROBLEMS = ("ignored_input", "data_leakage", "unlearnable_targets")

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(1500, 10)).astype(np.float32)
LABELS = (INPUTS[:, 0] + INPUTS[:, 1] > 0).astype(np.int64)
RANDOM_LABELS = RANDOM.permutation(LABELS)


def _stream(given: dict[str, Any], inputs: Any, labels: Any) -> Any:
    """Return the rows as a loader or data set of the framework, shuffled."""
    if isinstance(given["model"], nn.Module):
        return DataLoader(TensorDataset(torch.tensor(inputs), torch.tensor(labels)), 32, shuffle=True)
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((inputs, labels)).shuffle(2000, seed=0).batch(32)


class _Flipped(nn.Module):
    """Is meant to flip the time axis, but flips the rows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs.flip(0))


def _torch(hidden: int, rate: float, flipped: bool = False) -> dict[str, Any]:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    model = _Flipped(model) if flipped else model
    return {
        "model": model,
        "loss": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.Adam(model.parameters(), rate),
    }


def _keras(hidden: int, rate: float, flipped: bool = False) -> dict[str, Any]:
    inputs = keras.Input((10,))
    rows = keras.ops.flip(inputs, axis=0) if flipped else inputs
    first = keras.layers.Dense(hidden, "relu", kernel_initializer=keras.initializers.GlorotUniform(0))(rows)
    outputs = keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotUniform(1))(first)
    return {
        "model": keras.Model(inputs, outputs),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "optimizer": keras.optimizers.Adam(rate),
    }


@pytest.fixture(params=[_torch, _keras], ids=["pytorch", "keras3"])
def make(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    return request.param


def _fit(given: dict[str, Any], train: Any, validation: Any = None, **options: Any) -> Result:
    options = {"epochs": 8, "batch_size": 50, "budget": 1.05, "progress": False} | options
    return autotrainer.fit(given.pop("model"), train, validation, **given, **options)


def _severities(result: Result) -> dict[str, Severity]:
    return {f.problem: f.severity for f in result.findings if f.problem in PROBLEMS}


def test_healthy_training_has_no_finding_and_no_extra_cost(make: Callable[..., dict[str, Any]]) -> None:
    result = _fit(make(16, 0.03), (INPUTS, LABELS), budget=2.0)
    assert result.status == "healthy", [str(f) for f in result.findings]
    assert _severities(result) == {}
    assert result.cost == 1.0


def test_shared_rows_are_data_leakage(make: Callable[..., dict[str, Any]]) -> None:
    inputs, labels = (np.concatenate([a[1200:], a[:30]]) for a in (INPUTS, LABELS))
    result = _fit(make(16, 0.03), (INPUTS[:1200], LABELS[:1200]), (inputs, labels), budget=3.0)
    assert _severities(result) == {"data_leakage": Severity.ERROR}
    assert "30 of 330 distinct validation inputs" in result.findings[0].message
    assert (result.status, result.cost) == ("unrepaired", 1.0), "there is nothing to repair"


@pytest.mark.parametrize("shared", [30, 0])
def test_shared_rows_of_streams_are_data_leakage(make: Callable[..., dict[str, Any]], shared: int) -> None:
    given = make(16, 0.03)
    held_out = tuple(np.concatenate([a[1200:], a[:shared]]) for a in (INPUTS, LABELS))
    train, validation = _stream(given, INPUTS[:1200], LABELS[:1200]), _stream(given, *held_out)
    result = _fit(given, train, validation, budget=3.0)
    assert _severities(result) == ({"data_leakage": Severity.ERROR} if shared else {})


def test_few_possible_rows_are_not_data_leakage(make: Callable[..., dict[str, Any]]) -> None:
    inputs = RANDOM.integers(0, 2, (1500, 10)).astype(np.float32)
    result = _fit(make(16, 0.03), (inputs, (inputs.sum(axis=1) > 5).astype(np.int64)))
    assert _severities(result) == {}


def test_random_labels_are_memorized_and_not_repaired(make: Callable[..., dict[str, Any]]) -> None:
    result = _fit(make(256, 0.02), (INPUTS[:800], RANDOM_LABELS[:800]), (INPUTS[800:], RANDOM_LABELS[800:]),
                  epochs=40, budget=3.0)  # fmt: skip
    assert _severities(result) == {"unlearnable_targets": Severity.ERROR}, [str(f) for f in result.findings]
    assert "memorized" in result.findings[0].message
    assert (result.status, result.plan) == ("unrepaired", None), "no repair finds what is not there"
    assert result.cost <= 3.0


def test_constant_labels_are_unlearnable(make: Callable[..., dict[str, Any]]) -> None:
    result = _fit(make(16, 0.03), (INPUTS[:600], np.ones(600, np.int64)), budget=3.0)
    assert _severities(result) == {"unlearnable_targets": Severity.ERROR}
    given = make(16, 0.03)
    found = autotrainer.check(given["model"], (INPUTS[:600], np.ones(600, np.int64)), loss=given["loss"])
    assert {f.problem: f.severity for f in found if f.problem in PROBLEMS} == _severities(result)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_inputs_of_other_rows_are_ignored_input(make: Callable[..., dict[str, Any]]) -> None:
    mixed = _fit(make(16, 0.003, flipped=True), (INPUTS, LABELS), epochs=3)
    assert mixed.findings[0].problem == "rows_mixed"
    result = _fit(make(16, 0.003, flipped=True), (INPUTS, LABELS), epochs=30, ignore="rows_mixed")
    told = {f.problem: f for f in result.findings}
    assert _severities(result) == {"ignored_input": Severity.ERROR}, [str(f) for f in result.findings]
    assert told["ignored_input"].caused_by in (None, "not_learning")
    assert "A linear model reaches 0.9" in told["ignored_input"].message
    assert result.cost <= 1.08


# -- learning rates -------------------------------------------------------------------------------------------------


class _Setting(RecordedRun):
    """Sets the learning rate before each step."""

    trainer: Any
    rate = 0.5

    def spend(self, samples: int, *, training: bool) -> bool:
        if training:
            assert self.trainer.set_rate(self.kept, self.rate)
        return super().spend(samples, training=training)


def _trainer(given: dict[str, Any]) -> Any:
    data = ArrayData(INPUTS[:200], LABELS[:200])
    request = FitRequest(train=data, validation=data, epochs=2, batch_size=50, **given)
    return registry.backend_of(given["model"]).trainer(request)


def _predictions(trainer: Any, run: RecordedRun, *edits: Edit) -> np.ndarray:
    trained = trainer.train(TrainingSpec(2, 0, edits), run)
    run.monitor.close()
    return trained.predict(INPUTS[:20])


def test_set_rate_applies_to_the_next_step(make: Callable[..., dict[str, Any]]) -> None:
    trainer = _trainer(make(8, 0.01))
    run = _Setting()
    run.trainer = trainer
    found = _predictions(trainer, run)
    np.testing.assert_allclose(found, _predictions(trainer, RecordedRun(), SetLearningRate(0.5)), rtol=1e-5)
    assert not np.allclose(found, _predictions(trainer, RecordedRun()))


def test_set_rate_keeps_group_ratios_and_schedules() -> None:
    given = _torch(8, 0.01)
    layers = list(given["model"].children())
    groups = [{"params": layers[0].parameters()}, {"params": layers[2].parameters(), "lr": 1.0}]
    given["optimizer"] = torch.optim.SGD(groups, 0.1)
    trainer = _trainer(given)
    run = _Setting()
    run.trainer = trainer
    _predictions(trainer, run)
    assert run.kept is not None
    assert [group["lr"] for group in run.kept.optimizer.param_groups] == pytest.approx([0.5, 5.0])
    given = _keras(8, 0.01)
    given["optimizer"] = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 100))
    trainer = _trainer(given)
    kept = RecordedRun()
    trainer.train(TrainingSpec(1, 0), kept)
    kept.monitor.close()
    assert trainer.set_rate(kept.kept, 0.5) is False


def test_lr_range_test_finds_a_better_rate(make: Callable[..., dict[str, Any]]) -> None:
    unmeasured = ("learning_rate_too_low", "abnormal_update_ratio")
    options = {"ignore": unmeasured, "forbid": ["swap_optimizer"]}
    result = _fit(make(16, 3e-5), (INPUTS, LABELS), epochs=25, budget=2.15, **options)
    assert result.baseline_score < 0.8
    (attempt, *_) = result.attempts
    (edit,) = attempt.plan.edits
    assert isinstance(edit, SetLearningRate)
    assert 1e-3 < edit.value < 1e-2
    assert result.status == "repaired", [str(f) for f in result.findings]
    assert result.score > 0.95
    assert result.cost <= 2.15


# -- rows of streams ------------------------------------------------------------------------------------------------


def _sampled(backend: str, given: dict[str, Any], source: Any, rows: int) -> ArrayData | None:
    data = ArrayData(INPUTS[:40], LABELS[:40])
    (found,) = (b for b in registry.backends() if b.name == backend)
    trainer = found.trainer(FitRequest(train=data, validation=data, epochs=1, batch_size=8, **given))
    return trainer.sample(StreamData(source), rows)


def test_sample_of_a_loader_leaves_its_state_unchanged() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(LABELS))
    loader = DataLoader(rows, batch_size=32, shuffle=True, generator=generator)
    before = generator.get_state()
    samples = [_sampled("pytorch", _torch(4, 0.1), loader, 70) for _ in range(2)]
    assert torch.equal(before, generator.get_state())
    first, second = samples
    assert first is not None
    assert second is not None
    assert first.inputs.shape == (70, 10)
    assert (first.inputs.dtype, first.targets.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(first.inputs, second.inputs)
    place = [int(np.flatnonzero((row == INPUTS).all(axis=1))[0]) for row in first.inputs]
    np.testing.assert_array_equal(first.targets, LABELS[place])
    assert place != sorted(place)


def test_sample_of_batches_that_are_not_pairs_is_none() -> None:
    given = _torch(4, 0.1)
    assert _sampled("pytorch", given, [(torch.ones(8, 10), [1, 2])], 5) is None


def test_sample_of_a_data_set_has_its_first_rows() -> None:
    import tensorflow as tf

    source = tf.data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(32)
    found = _sampled("keras3", _keras(4, 0.1), source, 70)
    assert found is not None
    np.testing.assert_array_equal(found.inputs, INPUTS[:70])
    np.testing.assert_array_equal(found.targets, LABELS[:70])
    several = source.map(lambda x, y: (x, {"a": y, "b": y}))
    assert _sampled("keras3", _keras(4, 0.1), several, 70) is None
