"""What an evaluation ignores, and which loss it reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import autotrainer
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.backends.keras3.model.masks import unmasked
from autotrainer.backends.keras3.training.evaluation import Evaluator
from autotrainer.backends.keras3.training.trainer import make_trainer
from autotrainer.edits import SetLoss, StopEarly
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.data import ArrayData, StreamData
from autotrainer.records.signals import Observation
from autotrainer.testing import RecordedRun

RANDOM = np.random.RandomState(0)
TOKENS = RANDOM.randint(1, 9, (70, 6))
TOKENS[:35, 4:] = 0
TAGS = TOKENS % 3
LEFT_OUT = np.where(TOKENS == 0, -100, TAGS)
X = RANDOM.randn(60, 4).astype("float32")
Y = X.sum(1, keepdims=True)


def tagger() -> Any:
    made = keras.Sequential(
        [
            kl.Input((6,), dtype="int32"),
            kl.Embedding(9, 4, mask_zero=True),
            kl.LSTM(4, return_sequences=True),
            kl.Dense(3, "softmax"),
        ]
    )
    made.compile("adam", "sparse_categorical_crossentropy")
    return made


@pytest.mark.parametrize("targets", [TAGS, TAGS[..., None], TAGS.astype("float32"), TAGS.astype("uint8")])
def test_masked_time_steps_are_ignored(targets: Any) -> None:
    found = Evaluator(tagger(), "sparse_categorical_crossentropy", None, 16).evaluate(ArrayData(TOKENS, targets))
    assert found is not None
    assert found.targets is targets
    assert found.counted is not None
    np.testing.assert_array_equal(found.counted.reshape(TAGS.shape), LEFT_OUT)


def test_score_counts_unmasked_time_steps() -> None:
    result = autotrainer.fit(tagger(), (TOKENS, TAGS), (TOKENS, TAGS), epochs=1, repair=False, progress=False)
    right = result.model.predict(TOKENS, verbose=0).argmax(-1) == TAGS
    assert result.score == pytest.approx(right[TOKENS > 0].mean())


def test_custom_metric_gets_the_original_targets() -> None:
    targets = TAGS.astype("float32")
    seen: list[Any] = []

    def metric(wanted: Any, _: Any) -> float:
        seen.append(wanted)
        return 0.0

    given = (TOKENS, targets)
    autotrainer.fit(tagger(), given, given, epochs=1, metric=metric, repair=False, progress=False)
    assert {wanted.dtype for wanted in seen} == {targets.dtype}
    np.testing.assert_array_equal(seen[0], targets)


def padded(tags: Any) -> Any:
    """Return four batches whose sequences are as long as the longest of each: 4 steps in the first one, then 6."""

    def rows() -> Iterator[Any]:
        for number, (tokens, wanted) in enumerate(zip(TOKENS, tags, strict=True)):
            yield tokens[: 4 if number < 35 else 6], wanted[: 4 if number < 35 else 6]

    kinds = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, *tags.shape[2:]], tags.dtype))
    found = tf.data.Dataset.from_generator(rows, output_signature=kinds).padded_batch(20)
    return found.apply(tf.data.experimental.assert_cardinality(4))


@pytest.mark.parametrize("kind", ["int32", "uint8", "float32"])
def test_batches_padded_to_different_lengths_are_joined(kind: str) -> None:
    made = keras.Sequential([kl.Embedding(9, 4, mask_zero=True), kl.LSTM(4, return_sequences=True), kl.Dense(3)])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.build((None, None))
    found = Evaluator(made, made.loss, None, 20).evaluate(StreamData(padded(TAGS.astype(kind))))
    assert found is not None
    assert found.outputs.shape == (70, 6, 3)
    assert not found.outputs[:20, 4:].any()
    assert found.counted is not None
    np.testing.assert_array_equal(found.counted, LEFT_OUT)
    whole = ArrayData(TOKENS, TAGS)
    alone = Evaluator(made, made.loss, None, 20).evaluate(whole)
    assert alone is not None
    np.testing.assert_allclose(found.outputs[TOKENS > 0], alone.outputs[TOKENS > 0], atol=1e-5)


def test_padded_time_steps_do_not_count_without_a_mask() -> None:
    made = keras.Sequential([kl.Embedding(9, 4), kl.Dense(3, "softmax")])
    made.compile("sgd", "sparse_categorical_crossentropy")
    found = Evaluator(made, made.loss, None, 20).evaluate(StreamData(padded(TAGS.astype("float32"))))
    assert found is not None
    assert found.counted is not None
    np.testing.assert_array_equal(found.counted[:20, 4:], -100)
    np.testing.assert_array_equal(found.counted[20:], TAGS[20:])


def test_padded_numeric_targets_equal_the_outputs() -> None:
    made = keras.Sequential([kl.Embedding(9, 4), kl.Dense(1)])
    made.compile("sgd", "mse")
    given = padded(TAGS[..., None] + np.float32(0.5))
    result = autotrainer.fit(made, given, given, epochs=1, metric="mse", repair=False, progress=False)
    assert result.score < 5


def test_a_data_set_without_batches_is_refused() -> None:
    with pytest.raises(autotrainer.errors.DataError, match="holds no batch"):
        Evaluator(regression(), "mae", None, 16).evaluate(StreamData([]))


def test_watching_ignores_masked_time_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Observation] = []
    monkeypatch.setattr(Monitor, "record", lambda self, observation: seen.append(observation))
    made = tagger()
    with autotrainer.watch(made):
        made.fit(TOKENS, TAGS, batch_size=70, shuffle=False, verbose=0)
    assert seen[0].targets is not None
    np.testing.assert_array_equal(seen[0].targets, LEFT_OUT[: len(seen[0].targets)])


@pytest.mark.parametrize(
    ("targets", "units"),
    [
        (TAGS.astype("float32") + 0.5, 3),  # numbers
        (np.eye(3)[TAGS], 3),
        (TAGS > 0, 1),
        (TAGS[:, 0], 3),
    ],
)
def test_targets_without_class_indices_are_not_masked(targets: Any, units: int) -> None:
    assert unmasked(targets, np.zeros((70, 6, units)), TOKENS > 0) is targets


def test_no_mask_changes_nothing() -> None:
    assert unmasked(TAGS, np.zeros((70, 6, 3)), np.ones((70, 6), bool)) is TAGS
    assert unmasked(TAGS, np.zeros((70, 6, 3)), None) is TAGS


def regression(loss: Any = "mae") -> Any:
    made = keras.Sequential([kl.Input((4,)), kl.Dense(1)])
    made.compile(keras.optimizers.SGD(0.05), loss)
    return made


def test_attempt_with_another_loss_reports_its_trained_loss() -> None:
    trainer = make_trainer(FitRequest(regression(), ArrayData(X, Y), ArrayData(X, Y), None, None, 2, 16))
    run = RecordedRun()
    edits = (SetLoss("squared_error", "values"), StopEarly(5))
    trained = trainer.train(TrainingSpec(2, 0, edits), run)
    evaluation = run.ends[-1][2]
    assert evaluation is not None
    error = np.asarray(trained.model.predict(X, verbose=0)) - Y
    assert evaluation.training_loss == pytest.approx((error**2).mean(), rel=1e-4)
    assert evaluation.loss == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert run.ends[-1][2].training_loss != run.ends[-1][2].loss


def test_original_loss_needs_no_separate_trained_loss() -> None:
    trainer = make_trainer(FitRequest(regression(), ArrayData(X, Y), ArrayData(X, Y), None, None, 1, 16))
    run = RecordedRun()
    trainer.train(TrainingSpec(1, 0), run)
    assert run.ends[-1][2].trained_loss is None


def test_logits_become_probabilities_for_a_loss_that_expects_them() -> None:
    made = keras.Sequential([kl.Input((4,)), kl.Dense(3)])
    labels = np.arange(60) % 3
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = Evaluator(made, "sparse_categorical_crossentropy", None, 16, own).evaluate(ArrayData(X, labels))
    assert found is not None
    assert found.loss == pytest.approx(found.training_loss, rel=1e-4)


@pytest.mark.parametrize("wrap", [lambda layer: layer, kl.Bidirectional])
def test_a_stateful_layer_is_refused_by_name(wrap: Any) -> None:
    recurrent = wrap(kl.LSTM(3, stateful=True))
    made = keras.Sequential([kl.Input(batch_shape=(4, 3, 2)), recurrent, kl.Dense(1)])
    made.compile("sgd", "mse")
    with pytest.raises(autotrainer.errors.ConfigError, match=r"is stateful: .* stateful=False"):
        autotrainer.fit(made, (np.zeros((8, 3, 2)), np.zeros((8, 1))), epochs=1, progress=False)


class Coded(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first = kl.Dense(4, "relu")
        self.last = kl.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.last(self.first(inputs))


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "mse"},
        {"loss": keras.losses.MeanSquaredError()},
        {"loss": ["mse"], "loss_weights": [2.0], "metrics": ["mae"], "weighted_metrics": ["mae"]},
    ],
)
def test_compiled_subclassed_model_is_copied(settings: dict[str, Any], fitted: bool) -> None:
    made = Coded()
    made.compile("sgd", **settings)
    made(X[:2])
    if fitted:
        made.fit(X, Y, validation_data=(X, Y), verbose=0)
        made.predict(X, verbose=0)
    trainer = make_trainer(FitRequest(made, ArrayData(X, Y), ArrayData(X, Y), None, None, 1, 32))
    assert trainer.context.layers


def test_callbacks_see_metrics_of_unmasked_time_steps() -> None:
    made, told = keras.Sequential([kl.Input((6,)), kl.Embedding(9, 4, mask_zero=True), kl.Dense(3, "softmax")]), []
    made.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy", "sparse_categorical_crossentropy"])
    shown = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: told.append(dict(logs)))
    data = (TOKENS, TAGS)
    result = autotrainer.fit(made, data, data, epochs=1, repair=False, progress=False, fit_args={"callbacks": [shown]})
    known = result.model.evaluate(TOKENS, TAGS, batch_size=len(TAGS), verbose=0, return_dict=True)
    for name in ("accuracy", "sparse_categorical_crossentropy"):
        assert told[-1][f"val_{name}"] == pytest.approx(known[name], rel=1e-3), name


class OwnLoss(keras.Model):
    def train_step(self, data: Any) -> Any:
        inputs, targets = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((targets - self(inputs, training=True)) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def test_a_loss_that_only_the_training_step_knows_is_not_called_nan() -> None:
    inputs = keras.Input((4,))
    model = OwnLoss(inputs, kl.Dense(1)(inputs))
    model.compile(keras.optimizers.Adam(0.1))
    result = autotrainer.fit(model, (X, Y), (X, Y), epochs=2, metric="r2", repair=False, progress=False)
    assert "val_loss" not in result.history
    assert "nonfinite" not in [finding.problem for finding in result.findings]
