from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from autotrainer.adapter.spec import FitRequest, SupportLevel, TrainingSpec
from autotrainer.backends.keras3.runtime.saving import save_model
from autotrainer.backends.keras3.training.trainer import KerasTrainer, make_trainer
from autotrainer.edits import (
    AddDropout,
    AddInputNoise,
    ClipGradients,
    Edit,
    InsertNormalization,
    ReduceOnPlateau,
    Reinitialize,
    ScaleInputs,
    SetBatchSize,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SetOutputActivation,
    SetWeightDecay,
    StopEarly,
    SwapActivation,
    SwapOptimizer,
)
from autotrainer.errors import ConfigError, DataError, InputError
from autotrainer.records.data import ArrayData, Data, StreamData

RNG = np.random.default_rng(0)
X = RNG.normal(3.0, 2.0, (70, 4)).astype("float32")
Y = (X[:, :1] > 3).astype("float32")
TRAIN, VALIDATION = ArrayData(X[:50], Y[:50]), ArrayData(X[50:], Y[50:])


def mlp(**compiled: Any) -> Any:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, "sigmoid", name="first"),
            layers.Dropout(0.2, name="drop"),
            layers.Dense(1, "sigmoid", name="out"),
        ]
    )
    model.compile(**{"optimizer": keras.optimizers.SGD(0.5), "loss": "binary_crossentropy", **compiled})
    return model


def request(model: Any = None, train: Data = TRAIN, validation: Data = VALIDATION, **options: Any) -> FitRequest:
    values = {"loss": None, "optimizer": None, "epochs": 3, "batch_size": 16, **options}
    return FitRequest(mlp() if model is None else model, train, validation, **values)


def spec(*edits: Edit, epochs: int = 3, seed: int = 0) -> TrainingSpec:
    return TrainingSpec(epochs, seed, edits)


def train(trainer: KerasTrainer, run: Any, *edits: Edit, epochs: int = 3) -> Any:
    return trainer.train(spec(*edits, epochs=epochs), run)


def losses(run: Any) -> list[float]:
    return [values["loss"] for _, values, _ in run.ends]


def test_training_does_not_change_the_original_objects(make_run: Callable[..., Any]) -> None:
    model = mlp()
    before, state = model.get_weights(), dict(vars(model))
    run = make_run()
    trained = train(make_trainer(request(model)), run)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert vars(model) == state
    assert not model.optimizer.built
    assert model.train_function is None
    assert any(not np.array_equal(a, b) for a, b in zip(before, trained.model.get_weights(), strict=True))
    assert [e for e, _, _ in run.ends] == [0, 1, 2]
    assert run.kept is trained
    assert run.context.managed
    assert run.context.train_rows == 50
    assert run.operations == 4 * 8 + 8 + 8 + 1
    assert run.spent == 3 * (50 * 3 + 20)


def test_equal_seeds_give_equal_bits_watched_or_not(make_run: Callable[..., Any]) -> None:
    trainer = make_trainer(request(mlp(metrics=["accuracy"])))
    found = []
    for run in (make_run(), make_run(watched=True)):
        found.append(train(trainer, run).model.get_weights())
        assert len(run.monitor.history.steps) == (12 if len(found) == 2 else 0)
        assert run.monitor.history.epoch == 3
        run.monitor.close()
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
    other = trainer.train(spec(seed=1), make_run()).model.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_random_states_of_the_caller_are_kept(make_run: Callable[..., Any]) -> None:
    given = request()
    keras.utils.set_random_seed(3)
    expected = (np.random.rand(), float(keras.random.uniform(())))
    keras.utils.set_random_seed(3)
    train(make_trainer(given), make_run(), epochs=1)
    assert (np.random.rand(), float(keras.random.uniform(()))) == expected


def test_evaluation_gives_raw_outputs_targets_and_mean_loss(make_run: Callable[..., Any]) -> None:
    run = make_run()
    trained = train(make_trainer(request()), run, epochs=1)
    _, _, evaluation = run.ends[-1]
    expected = trained.model.predict(X[50:], verbose=0)
    np.testing.assert_allclose(evaluation.outputs, expected, rtol=1e-5)
    assert evaluation.outputs.dtype == np.float64
    assert evaluation.targets is VALIDATION.targets
    assert evaluation.loss == pytest.approx(trained.model.evaluate(X[50:], Y[50:], verbose=0), rel=1e-5)
    np.testing.assert_allclose(trained.predict(X[50:]), expected, rtol=1e-5)
    assert trained.evaluate(VALIDATION).loss == pytest.approx(evaluation.loss)


@pytest.mark.parametrize("budget", [0, 100, 150, 200, 260, 1000])
def test_the_budget_is_never_exceeded(make_run: Callable[..., Any], budget: int) -> None:
    run = make_run(budget)
    train(make_trainer(request()), run, epochs=9)
    assert run.spent <= budget
    assert run.spent > budget - 16 * 3 - 20 or budget == 1000
    assert len(run.ends) == (0 if budget < 48 else budget // 170 + (budget % 170 >= 48))


def test_the_core_can_end_a_training(make_run: Callable[..., Any]) -> None:
    run = make_run(epochs=2)
    train(make_trainer(request()), run, epochs=9)
    assert len(run.ends) == 2


EDITS: list[Edit] = [
    SetLearningRate(0.01),
    SwapOptimizer("adam", 0.01),
    SwapOptimizer("adamw", 0.01, weight_decay=0.1),
    SwapOptimizer("sgd", 0.01, momentum=0.9),
    SetMomentum(0.9, nesterov=True),
    SetWeightDecay(0.1),
    ClipGradients("value", 0.1),
    ClipGradients("norm", 0.1),
    ReduceOnPlateau(0.5, 1),
    SetBatchSize(10),
    StopEarly(2),
    SetLoss("squared_error", "values"),
    SetLoss("binary_cross_entropy", "probabilities"),
    SetOutputActivation("linear"),
    SwapActivation(("first",), "relu"),
    Reinitialize(("first",), "he_normal"),
    InsertNormalization(("first",)),
    AddDropout(("first",), 0.5),
    AddInputNoise(0.1),
    ScaleInputs(),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: type(edit).__name__)
def test_every_edit_trains(make_run: Callable[..., Any], edit: Edit, tmp_path: Path) -> None:
    trainer = make_trainer(request(epochs=1))
    assert trainer.supports(edit).level is SupportLevel.REBUILD
    run = make_run()
    trained = train(trainer, run, edit, epochs=1)
    assert np.isfinite(run.ends[0][2].loss)
    saved = save_model(trained.model, tmp_path)
    loaded = keras.models.load_model(saved)
    np.testing.assert_allclose(loaded.predict_on_batch(X), trained.model.predict_on_batch(X), rtol=1e-5)
    assert list(tmp_path.iterdir()) == [saved]


def test_optimizer_edits_reach_the_optimizer(make_run: Callable[..., Any]) -> None:
    trainer = make_trainer(request(optimizer=keras.optimizers.Adam(1e-3, clipnorm=1.0)))
    edits = (SetLearningRate(0.25), SetWeightDecay(0.1), ClipGradients("value", 0.5))
    optimizer = train(trainer, make_run(), *edits, epochs=1).optimizer
    assert float(optimizer.learning_rate) == 0.25
    assert (optimizer.weight_decay, optimizer.clipvalue, optimizer.clipnorm) == (0.1, 0.5, None)
    swapped = train(trainer, make_run(), SwapOptimizer("rmsprop", 0.1), epochs=1).optimizer
    assert (type(swapped).__name__, swapped.clipnorm) == ("RMSprop", 1.0)
    assert not trainer.supports(SetMomentum(0.9))


def test_weight_decay_leaves_biases_alone(make_run: Callable[..., Any]) -> None:
    model = mlp(optimizer=keras.optimizers.SGD(1e-9))
    model.get_layer("first").bias.assign(np.ones(8))
    start = keras.ops.convert_to_numpy(model.get_layer("first").kernel)
    trainer = make_trainer(request(model, optimizer=keras.optimizers.SGD(1e-3)))
    trained = train(trainer, make_run(), SetWeightDecay(100.0), epochs=1).model.get_layer("first")
    assert np.linalg.norm(trained.kernel) < 0.7 * np.linalg.norm(start)
    np.testing.assert_allclose(trained.bias, 1, atol=0.05)


class CustomSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    def __call__(self, step: Any) -> Any:
        return 0.1 / (1.0 + keras.ops.cast(step, "float32"))


@pytest.mark.parametrize("schedule", [keras.optimizers.schedules.CosineDecay(0.1, 100), CustomSchedule()])
def test_schedule_is_scaled(make_run: Callable[..., Any], schedule: Any) -> None:
    trainer = make_trainer(request(optimizer=keras.optimizers.SGD(schedule)))
    optimizer = train(trainer, make_run(), SetLearningRate(0.01), epochs=1).optimizer
    assert float(optimizer._learning_rate(50)) == pytest.approx(float(schedule(50)) * 0.1)
    assert "schedule" in trainer.supports(ReduceOnPlateau()).reason


def test_reduce_on_plateau_and_its_floor(make_run: Callable[..., Any]) -> None:
    trainer = make_trainer(request(optimizer=keras.optimizers.SGD(1e-12)))
    trained = train(trainer, make_run(), ReduceOnPlateau(0.1, 1, floor=0.05), epochs=6)
    assert float(trained.optimizer.learning_rate) == pytest.approx(0.05e-12)


def test_stop_early_restores_the_best_weights(make_run: Callable[..., Any]) -> None:
    trainer = make_trainer(request(mlp(optimizer=keras.optimizers.SGD(300.0))))
    run = make_run()
    trained = train(trainer, run, StopEarly(2), epochs=30)
    found = [e.loss for _, _, e in run.ends]
    assert len(found) == int(np.argmin(found)) + 3 < 30
    assert trained.evaluate(VALIDATION).loss == pytest.approx(min(found))


def test_input_scaling_is_computed_from_training_data_only(make_run: Callable[..., Any]) -> None:
    trained = train(make_trainer(request()), make_run(), ScaleInputs(), epochs=1)
    [edit] = trained.edits
    np.testing.assert_allclose(edit.mean, X[:50].mean(0), rtol=1e-5)
    np.testing.assert_allclose(edit.std, X[:50].std(0), rtol=1e-5)


def test_new_loss_is_trained_but_the_original_one_is_reported(make_run: Callable[..., Any]) -> None:
    run = make_run()
    trained = train(make_trainer(request()), run, SetLoss("squared_error", "values"), epochs=1)
    assert trained.model.loss.name == "mean_squared_error"
    expected = keras.losses.BinaryCrossentropy()(Y[50:], trained.model.predict_on_batch(X[50:]))
    assert run.ends[0][2].loss == pytest.approx(float(expected), rel=1e-5)


def test_batch_order_depends_on_the_seed_only(make_run: Callable[..., Any]) -> None:
    class Seen(layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sum = self.add_weight(name="sum", shape=(), trainable=False, initializer="zeros")

        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                self.sum.assign(self.sum * 1.5 + keras.ops.mean(x))
            return x

    model = keras.Sequential([keras.Input((4,)), Seen(), layers.Dense(4, "relu", name="a"), layers.Dense(1)])
    model.compile("sgd", "mse")
    trainer = make_trainer(request(model))
    sums = [
        float(train(trainer, make_run(), *edits).model.layers[0].sum)
        for edits in ((), (SetLearningRate(1e-3),), (SwapActivation(("a",), "tanh"), AddDropout(("a",), 0.5)))
    ]
    assert sums[0] == sums[1] == sums[2] != 0


def dataset(x: Any, y: Any) -> Any:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return -(-len(self.y) // 16)

    def __getitem__(self, i: int) -> Any:
        return self.x[16 * i : 16 * i + 16], self.y[16 * i : 16 * i + 16]


@pytest.mark.parametrize("kind", [dataset, Batches])
def test_streams(make_run: Callable[..., Any], kind: Any) -> None:
    trainer = make_trainer(request(None, StreamData(kind(X[:50], Y[:50])), StreamData(kind(X[50:], Y[50:]))))
    run = make_run()
    train(trainer, run, ScaleInputs(), epochs=2)
    assert run.spent == 2 * (4 * 16 * 3 + 20)  # the size of the last batch is unknown before it is read
    assert np.array_equal(run.ends[0][2].targets, Y[50:])
    assert bool(trainer.supports(SetBatchSize(8))) == (kind is dataset)


def test_infinite_stream_needs_steps(make_run: Callable[..., Any]) -> None:
    endless = StreamData(dataset(X[:50], Y[:50]).repeat())
    with pytest.raises(DataError, match="steps_per_epoch"):
        make_trainer(request(None, endless))
    with pytest.raises(DataError, match="validation_steps"):
        make_trainer(request(None, validation=endless))
    trainer = make_trainer(request(None, endless, fit_args={"steps_per_epoch": 3}))
    run = make_run()
    train(trainer, run, epochs=2)
    assert run.spent == 2 * (3 * 16 * 3 + 20)
    assert "steps_per_epoch" in trainer.supports(SetBatchSize(8)).reason


def test_weights_of_classes_and_rows(make_run: Callable[..., Any]) -> None:
    plain, weighted, zero = make_run(), make_run(), make_run()
    train(make_trainer(request(fit_args={"shuffle": False})), plain, epochs=1)
    train(make_trainer(request(fit_args={"class_weight": {0: 10.0, 1: 10.0}, "shuffle": False})), weighted, epochs=1)
    assert losses(weighted)[0] > 3 * losses(plain)[0]
    train(make_trainer(request(None, ArrayData(X[:50], Y[:50], np.zeros(50)))), zero, epochs=1)
    assert losses(zero) == [0.0]
    with pytest.raises(ConfigError, match="sample_weight"):
        make_trainer(request(fit_args={"sample_weight": np.ones(70)}))


def test_callback_objects_are_used_in_the_first_training_and_a_callable_in_all(make_run: Callable[..., Any]) -> None:
    seen: list[set[str]] = []

    class Spy(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(set(logs))

    model = mlp(metrics=["accuracy"])
    trainer = make_trainer(request(model, fit_args={"callbacks": [Spy()]}))
    train(trainer, make_run(), epochs=1)
    train(trainer, make_run(), SetLearningRate(0.1), epochs=1)
    assert seen == [{"loss", "accuracy", "val_loss", "val_accuracy"}]
    trainer = make_trainer(request(model, fit_args={"callbacks": lambda: [Spy()]}))
    train(trainer, make_run(), epochs=1)
    train(trainer, make_run(), SetLearningRate(0.1), epochs=1)
    assert len(seen) == 3
    trainer.train(TrainingSpec(1, 0, rehearsal=True), make_run())
    assert len(seen) == 3


class Net(keras.Model):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.first = layers.Dense(width, "sigmoid", name="first")
        self.out = layers.Dense(1, "sigmoid", name="out")

    def call(self, x: Any) -> Any:
        return self.out(self.first(x))


def test_subclassed_models(make_run: Callable[..., Any]) -> None:
    model = Net(6)
    trainer = make_trainer(request(model, loss="mse", optimizer="sgd"))
    assert not model.built
    first, again = (train(trainer, make_run(), epochs=1).model.get_weights() for _ in range(2))
    assert first[0].shape == (4, 6)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert "code" in trainer.supports(InsertNormalization(("first",))).reason
    assert trainer.supports(SwapActivation(("first",), "relu"))
    run = make_run()
    scaled = train(trainer, run, SwapActivation(("first",), "relu"), ScaleInputs(), epochs=1)
    assert scaled.predict(X).shape == (70, 1)


def test_builders_are_called_for_models_that_are_code(make_run: Callable[..., Any]) -> None:
    calls = []

    class Opaque(keras.Model):
        def __init__(self, units: int = 3) -> None:  # an argument that it does not keep
            super().__init__()
            self.first = layers.Dense(units, "relu")
            self.out = layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.out(self.first(x))

    def build() -> Any:
        calls.append(1)
        return Opaque(5)

    model = Opaque(5)
    model(X)
    with pytest.raises(InputError, match="callable that builds"):
        make_trainer(request(model, loss="mse", optimizer="sgd"))
    trainer = make_trainer(request(build, loss="mse", optimizer="sgd"))
    first, again = (train(trainer, make_run(), epochs=1).model.get_weights() for _ in range(2))
    assert first[0].shape == (4, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(calls) == 4


def test_a_custom_train_step_is_used(make_run: Callable[..., Any]) -> None:
    class CustomStep(keras.Model):
        def train_step(self, data: Any) -> Any:
            self.steps = getattr(self, "steps", 0) + 1
            return super().train_step(data)

    inputs = keras.Input((4,))
    model = CustomStep(inputs, layers.Dense(1, "sigmoid", name="out")(inputs))
    model.compile("sgd", "mse")
    trainer = make_trainer(request(model))
    trained = train(trainer, make_run(), epochs=1)
    assert type(trained.model) is CustomStep
    assert trained.model.steps > 0
    assert "its loss" in trainer.supports(SetLoss("squared_error", "values")).reason


def test_inputs_in_a_dict_or_a_tuple(make_run: Callable[..., Any]) -> None:
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    hidden = layers.Concatenate()([a, b])
    for structure in ({"a": a, "b": b}, [a, b]):
        model = keras.Model(structure, layers.Dense(1, "sigmoid")(hidden))
        model.compile("sgd", "binary_crossentropy")
        inputs: Any = {"a": X[:, :2], "b": X[:, 2:]} if isinstance(structure, dict) else (X[:, :2], X[:, 2:])
        run = make_run()
        trained = train(
            make_trainer(request(model, ArrayData(inputs, Y), ArrayData(inputs, Y))), run, ScaleInputs(), epochs=1
        )
        np.testing.assert_allclose(trained.edits[0].mean, X[:, :2].mean(0), rtol=1e-5)
        assert trained.predict(inputs).shape == (70, 1)


def test_attempts_start_from_pretrained_weights(make_run: Callable[..., Any]) -> None:
    model = mlp()
    run = make_run(epochs=1)
    trained = train(
        make_trainer(request(model)), run, SetLearningRate(1e-12), SwapActivation(("first",), "relu", False)
    )
    np.testing.assert_allclose(trained.model.get_weights()[0], model.get_weights()[0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step": print}, ConfigError, "PyTorch"),
        ({"fit_args": {"epochs": 3}}, ConfigError, "epochs"),
        ({"fit_args": {"class_weights": {}}}, ConfigError, "class_weight"),
        ({"fit_args": {"validation_freq": 2}}, ConfigError, "validation_freq"),
        ({"fit_args": {"callbacks": [3]}}, ConfigError, "callbacks"),
        ({"fit_args": {"callbacks": 3}}, ConfigError, "callbacks"),
        ({"fit_args": {"class_weight": 3}}, ConfigError, "class_weight"),
        ({"fit_args": {"class_weight": {"yes": 1.0}}}, ConfigError, "class 'yes'"),
        ({"fit_args": {"class_weight": {0: "a"}}}, ConfigError, "weight 'a'"),
        ({"fit_args": {"verbose": "q"}}, ConfigError, "verbose must be"),
        ({"fit_args": {"shuffle": "no"}}, ConfigError, "shuffle must be"),
        ({"fit_args": {"validation_batch_size": 0}}, ConfigError, "validation_batch_size"),
        ({"fit_args": {"workers": 2}}, ConfigError, "workers"),
        ({"loss": 3}, InputError, "not a Keras loss"),
        ({"fit_args": {"steps_per_epoch": 0}}, ConfigError, "steps_per_epoch"),
        ({"model": keras.Sequential([keras.Input((4,)), layers.Dense(1)])}, InputError, "not compiled"),
        ({"model": keras.Sequential([keras.Input((9,)), layers.Dense(1)]), "loss": "mse", "optimizer": "sgd"},
         DataError, r"\(2, 4\)"),
        ({"model": lambda: 3}, InputError, "must return a keras.Model"),
        ({"loss": "mean_sqared_error"}, InputError, "not a Keras loss"),
        ({"optimizer": "admm"}, InputError, "not a Keras optimizer"),
        ({"optimizer": 3}, InputError, "not 3"),
        ({"validation": ArrayData(X[:, :3], Y)}, DataError, "validation_data"),
    ],
)  # fmt: skip
def test_unusable_options_are_refused_immediately(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_trainer(request(**options))


@keras.saving.register_keras_serializable("tests")
class Reconstructs(keras.Model):  # type: ignore[misc]
    """Adds its loss in `call`, so it has none before the first call."""

    def __init__(self, adds: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.adds, self.out = adds, layers.Dense(4)

    def call(self, inputs: Any) -> Any:
        outputs = self.out(inputs)
        if self.adds:
            self.add_loss(keras.ops.mean((inputs - outputs) ** 2))
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {"adds": self.adds}


def test_loss_added_in_call(make_run: Callable[..., Any]) -> None:
    data = ArrayData(X, X)
    for adds in (True, False):
        model = Reconstructs(adds)
        model.compile("sgd", loss=None)
        if adds:
            run = make_run()
            train(make_trainer(request(model, data, data)), run)
            assert losses(run)[-1] < losses(run)[0]
        else:
            with pytest.raises(InputError, match="compiled without a loss"):
                make_trainer(request(model, data, data))


def test_user_errors_are_not_caught(make_run: Callable[..., Any]) -> None:
    class Breaks(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(make_trainer(request(fit_args={"callbacks": Breaks()})), make_run())


@pytest.mark.slow
def test_a_repaired_model_loads_in_a_process_without_autotrainer(make_run: Callable[..., Any], tmp_path: Path) -> None:
    edits = (ScaleInputs(), InsertNormalization(("first",)), AddInputNoise(0.1), SetLoss("squared_error", "values"))
    trained = train(make_trainer(request()), make_run(), *edits, epochs=1)
    saved = save_model(trained.model, tmp_path)
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys, numpy as np, keras\n"
        f"m = keras.models.load_model({str(saved)!r})\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, m.predict(np.load({str(tmp_path / 'x.npy')!r}), verbose=0))\n"
        "assert not [n for n in sys.modules if n.startswith('autotrainer')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), trained.predict(X), rtol=1e-5)
