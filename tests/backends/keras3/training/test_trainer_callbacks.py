"""Edits of the training procedure in real trainings of Keras models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from autotrainer import edits as e
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.backends.keras3.layers.update_clipping import clip_updates
from autotrainer.backends.keras3.training.trainer import KerasTrainer, make_trainer
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData
from autotrainer.reporting.plan import RepairPlan

RNG = np.random.default_rng(0)
X = RNG.normal(size=(260, 4)).astype("float32")
Y = (X[:, :1] * X[:, 1:2] > 0).astype("float32")


def model(*hidden: Any, optimizer: Any = None) -> Any:
    keras.utils.set_random_seed(1)
    given = hidden or (layers.Dense(16, "relu", name="a"), layers.Dense(16, "relu", name="b"))
    made = keras.Sequential([keras.Input((4,)), *given, layers.Dense(1, "sigmoid", name="out")])
    made.compile(optimizer or keras.optimizers.Adam(0.01), "binary_crossentropy")
    return made


def trainer(given: Any, x: Any = X, epochs: int = 2, **options: Any) -> KerasTrainer:
    train, held = ArrayData(x[:200], Y[:200]), ArrayData(X[200:], Y[200:])
    return make_trainer(FitRequest(given, train, held, None, None, epochs, 32, **options))


@pytest.fixture
def train(make_run: Callable[..., Any]) -> Callable[..., Any]:
    def run_it(given: Any, *edits: e.Edit, x: Any = X, epochs: int = 2, **options: Any) -> tuple[Any, Any]:
        run = make_run()
        return trainer(given, x, epochs, **options).train(TrainingSpec(epochs, 0, edits), run), run

    return run_it


def losses(run: Any) -> list[float]:
    return [values["loss"] for _, values, _ in run.ends]


def held_out(run: Any) -> list[float]:
    return [evaluation.loss for _, _, evaluation in run.ends]


def reason(given: KerasTrainer, edit: e.Edit) -> str:
    support = given.supports(edit)
    assert not support
    return support.reason


# -- learning rate and length -----------------------------------------------------------------------------------------


def test_warm_up_and_decay_become_one_keras_schedule(train: Any) -> None:
    trained, run = train(model(), e.WarmUpRate(4), e.DecayRate(0.1), e.SetLearningRate(0.02), epochs=3)
    rate = trained.optimizer._learning_rate
    assert [float(rate(step)) for step in (0, 2, 4)] == pytest.approx([0.005, 0.0125, 0.02])
    assert float(rate(21)) == pytest.approx(0.002)
    assert trained.edits[1] == e.DecayRate(0.1, steps=21)
    assert run.context.optimizer.learning_rate == pytest.approx(0.02), "the target rate, not that of the first step"


def test_warm_up_alone_ends_at_the_target_rate(train: Any) -> None:
    trained, _ = train(model(), e.WarmUpRate(5))
    rate = trained.optimizer._learning_rate
    assert float(rate(0)) < 0.003
    assert [float(rate(step)) for step in (5, 6, 500)] == pytest.approx([0.01] * 3)


def test_user_schedule_is_kept_unless_it_is_replaced(train: Any) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 1, 0.1)
    given = model(optimizer=keras.optimizers.SGD(schedule))
    prepared = trainer(given)
    for edit in (e.WarmUpRate(2), e.DecayRate(), e.ExtendTraining(9), e.Rollback(), e.ResetOptimizerState(1)):
        assert "schedule" in reason(prepared, edit)
    trained, _ = train(given, e.DecayRate(instead=True))
    assert float(trained.optimizer._learning_rate(7)) == pytest.approx(0.01)
    assert "no schedule" in reason(trainer(model()), e.DecayRate(instead=True))


def test_extended_training_runs_all_its_epochs(make_run: Callable[..., Any]) -> None:
    prepared, run = trainer(model()), make_run()
    prepared.train(TrainingSpec(2, 0).with_edits((e.ExtendTraining(4),)), run)
    assert [epoch for epoch, _, _ in run.ends] == [0, 1, 2, 3]
    assert "already has 2 epochs" in reason(prepared, e.ExtendTraining(2))


# -- optimizer --------------------------------------------------------------------------------------------------------


def moved(clipped: bool, jump: float) -> float:
    """Return the length of the step after 200 small gradients, divided by the learning rate."""
    variable = keras.Variable(np.zeros(50, "float32"))
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build([variable])
    if clipped:
        clip_updates(optimizer)
    for step in range(201):
        before = np.array(variable)
        gradient = np.random.default_rng(step).normal(size=50) * (jump if step == 200 else 1.0)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [variable])
    return float(np.abs(np.array(variable) - before).mean()) / 0.01


def test_clipped_updates_stay_near_the_rate_if_gradients_exceed_their_second_moment(train: Any) -> None:
    assert moved(False, 30.0) > 1
    assert moved(True, 30.0) < 0.1
    assert moved(True, 1.0) == pytest.approx(moved(False, 1.0), rel=0.2)
    with pytest.raises(ConfigError, match="SGD keeps no second moment"):
        clip_updates(keras.optimizers.SGD())
    plain, _ = train(model())
    trained, run = train(model(), e.TuneAdam(0.95, 1e-12, clip_updates=True))
    assert (trained.optimizer.beta_2, trained.optimizer.epsilon) == (0.95, 1e-12)
    assert losses(run)[-1] < losses(run)[0]
    assert any(not np.array_equal(a, b) for a, b in zip(plain.model.weights, trained.model.weights, strict=True))
    assert "no second moment" in reason(trainer(model(optimizer=keras.optimizers.SGD(0.1))), e.TuneAdam(0.9))


def test_optimizer_state_is_reset_between_epochs(train: Any) -> None:
    trained, run = train(model(), e.ResetOptimizerState(1), epochs=3)
    assert int(trained.optimizer.iterations) == 7
    assert float(trained.optimizer.learning_rate) == pytest.approx(0.01)
    assert losses(run)[-1] < losses(run)[0]
    assert "fresh optimizer" in reason(trainer(model()), e.ResetOptimizerState())


def test_edits_that_keras_does_not_need_are_refused_with_a_reason() -> None:
    prepared = trainer(model())
    assert "up to the training step" in reason(prepared, e.CompleteOptimizer())
    assert "new gradients" in reason(prepared, e.RestoreZeroGrad())
    assert "`training`" in reason(prepared, e.SetMode())


# -- bad steps and epochs ---------------------------------------------------------------------------------------------


def with_bad_row(value: float) -> Any:
    x = X.copy()
    x[17] = value
    return x


def test_nonfinite_batch_is_skipped_without_side_effects(train: Any) -> None:
    hidden = (layers.Dense(16, name="a"), layers.BatchNormalization(), layers.ReLU())
    poisoned, _ = train(model(*hidden), x=with_bad_row(np.nan))
    assert not all(np.isfinite(w).all() for w in poisoned.model.get_weights())
    trained, _ = train(model(*hidden), e.SkipUpdates(), x=with_bad_row(np.nan), epochs=4)
    assert all(np.isfinite(w).all() for w in trained.model.get_weights())
    assert int(trained.optimizer.iterations) == 4 * 7 - 4


def test_outlier_gradient_is_skipped(train: Any) -> None:
    options = {"x": with_bad_row(300.0), "epochs": 30}
    _, plain = train(model(optimizer=keras.optimizers.SGD(0.3)), **options)
    _, guarded = train(model(optimizer=keras.optimizers.SGD(0.3)), e.SkipUpdates(window=12), **options)
    assert held_out(guarded)[-1] < held_out(plain)[-1] - 0.1


def test_usual_steps_are_not_skipped(train: Any) -> None:
    plain, _ = train(model(), epochs=4)
    guarded, _ = train(model(), e.SkipUpdates(), e.Rollback(), epochs=4)
    for one, other in zip(plain.model.get_weights(), guarded.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


class Jump(keras.callbacks.Callback):
    """Destroys the weights at the start of an epoch."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 4:
            out = self.model.get_layer("out")
            out.set_weights([w * -1000 - 50 for w in out.get_weights()])


def test_rollback_restores_the_best_epoch_and_reduces_the_rate(train: Any) -> None:
    options = {"epochs": 7, "fit_args": {"callbacks": lambda: [Jump()]}}
    _, plain = train(model(), **options)
    trained, run = train(model(), e.Rollback(), **options)
    found = held_out(run)
    assert held_out(plain)[4] > 3 * found[4]
    assert found[4] == pytest.approx(found[3])
    assert found[-1] <= found[3] * 1.05
    assert float(trained.optimizer.learning_rate) == pytest.approx(0.005)


# -- units and precision ----------------------------------------------------------------------------------------------


def dead(given: Any, *names: str) -> Any:
    for name in names:
        layer = given.get_layer(name)
        layer.bias.assign(np.full(layer.bias.shape, -100.0))
    return given


def branched() -> Any:
    """A Functional model with a branch, a separate activation and a convolution."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    wide = layers.Dense(8, name="wide")(inputs)
    left = layers.ReLU(name="act")(wide)
    right = layers.Conv1D(8, 2, activation="relu", name="conv")(layers.Reshape((4, 1))(inputs))
    outputs = layers.Dense(1, "sigmoid", name="out")(layers.Concatenate()([left, layers.Flatten()(right)]))
    made = keras.Model(inputs, outputs)
    made.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    return made


class Subclass(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.a, self.rest = layers.Dense(16, "relu", name="a"), layers.Dense(1, "sigmoid", name="out")

    def call(self, x: Any) -> Any:
        return self.rest(self.a(x))


def subclass() -> Any:
    keras.utils.set_random_seed(1)
    made = Subclass()
    made.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    made(X[:2])
    return made


def test_dead_units_are_revived_and_learn(train: Any) -> None:
    _, stuck = train(dead(model(), "a"), epochs=20)
    trained, alive = train(dead(model(), "a"), e.ReviveUnits(("a", "b")), epochs=20)
    assert losses(stuck)[-1] > 0.65
    assert losses(alive)[-1] < 0.4
    assert "call" not in vars(trained.model.get_layer("a"))


@pytest.mark.parametrize(
    ("build", "edited", "names"), [(branched, ("act", "conv"), ("wide", "conv")), (subclass, ("a",), ("a",))]
)
def test_units_are_revived_in_branches_before_separate_activations_and_in_code(
    train: Any, build: Any, edited: Any, names: Any
) -> None:
    given = build() if build is branched else None
    given = dead(given, *names) if given is not None else None
    if given is None:
        given = subclass()
        given.a.bias.assign(np.full(given.a.bias.shape, -100.0))
    trained, run = train(given, e.ReviveUnits(edited), epochs=4)
    for layer in trained.model._flatten_layers():
        if layer.name in names:
            assert float(np.min(layer.bias)) > -1
    assert run.evaluated == 4 * 60 + 3 * 32, "the forward passes are counted"


def test_living_frozen_and_kept_units_do_not_change(train: Any) -> None:
    given = model(optimizer=keras.optimizers.SGD(1e-9))
    bias = np.zeros(16)
    bias[3] = -100
    given.get_layer("a").bias.assign(bias)
    trained, _ = train(given, e.ReviveUnits(("a",)))
    changed = np.abs(given.get_layer("a").kernel - trained.model.get_layer("a").kernel).sum(0) > 1e-4
    assert np.flatnonzero(changed).tolist() == [3]
    assert "keep" in reason(trainer(model(), keep=("a",)), e.ReviveUnits(("a",)))
    given = dead(model(), "a")
    given.get_layer("a").trainable = False
    assert "frozen" in reason(trainer(given), e.ReviveUnits(("a",)))
    rnn = model(layers.Reshape((4, 1)), layers.LSTM(4, name="rnn"))
    assert "none of the layers" in reason(trainer(rnn), e.ReviveUnits(("rnn",)))


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_half_precision_is_raised(train: Any, policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        given = model(layers.Dense(16, "relu", name="a"), layers.Dense(16, name="b"), layers.ReLU())
    finally:
        keras.config.set_dtype_policy("float32")
    trained, run = train(given, e.RaisePrecision())
    assert {layer.compute_dtype for layer in trained.model._flatten_layers()} == {"float32"}
    assert {str(w.dtype) for w in trained.model.weights} == {"float32"}
    assert not hasattr(trained.optimizer, "inner_optimizer")
    assert losses(run)[-1] < losses(run)[0]
    changed, _ = RepairPlan(("x",), (e.RaisePrecision(),), framework="keras3").apply(given)
    assert changed.compute_dtype == "float32"
    np.testing.assert_allclose(changed.get_weights()[0], given.get_weights()[0].astype("float32"))
    assert "half precision" in reason(trainer(model()), e.RaisePrecision())


class Code(keras.Model):  # type: ignore[misc]
    """A subclassed model whose layers get new names each time they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = layers.Dense(8, "relu"), layers.Dense(1, "sigmoid")

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


@pytest.mark.parametrize("by", ["model", "callable"])
def test_layers_of_a_subclassed_model_keep_their_names_in_each_copy(by: str, make_run: Callable[..., Any]) -> None:
    given = Code()
    given(X[:2])
    given.compile("adam", "binary_crossentropy")
    data = (ArrayData(X[:200], Y[:200]), ArrayData(X[200:], Y[200:]))
    source: Any = (given, *data, None, None) if by == "model" else (Code, *data, "binary_crossentropy", "adam")
    prepared = make_trainer(FitRequest(*source, 1, 32))
    names = tuple(layer.name for layer in prepared.context.layers)
    for edit in (e.SwapActivation(names[:1], "elu"), e.Reinitialize(names, "he_uniform"), e.ReviveUnits(names[:1])):
        assert prepared.supports(edit)
        trained = prepared.train(TrainingSpec(1, 0, (edit,)), make_run())
        assert tuple(layer.name for layer in trained.model.layers) == names
