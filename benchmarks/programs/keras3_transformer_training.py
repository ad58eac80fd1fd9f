"""Fine-tunes transformers in Keras 3 with ``fit``, or trains them from scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from benchmarks.cases.case import Program
from benchmarks.cases.scoring import score
from benchmarks.data.datasets import Arrays
from benchmarks.data.tokens import IGNORED
from benchmarks.programs.keras3_transformer import Transformer, build, freeze, set_weights, weights_of
from benchmarks.programs.transformer_training import beginnings, last_scores, rate_factor, training_targets
from benchmarks.programs.transformer_weights import edited, matching, pretrained

__all__ = ["train_transformer"]


@keras.saving.register_keras_serializable(package="benchmarks")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """A rate that rises, then falls or stays."""

    def __init__(self, rate: float, steps: int, optimizer: dict[str, Any], pace: int = 1) -> None:
        self.rate, self.steps, self.optimizer, self.pace = rate, steps, dict(optimizer), pace
        factors = [rate_factor(step * pace, steps, optimizer) for step in range(steps + 1)]
        self.rates = np.asarray([rate * factor for factor in factors], np.float32)

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step."""
        return ops.take(ops.convert_to_tensor(self.rates), ops.minimum(ops.cast(step, "int32"), self.steps))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"rate": self.rate, "steps": self.steps, "optimizer": self.optimizer, "pace": self.pace}


def masked_accuracy(y_true: Any, y_pred: Any) -> Any:
    """Return the share of tokens that are right, of those that count."""
    counted = ops.cast(ops.not_equal(y_true, IGNORED), "float32")
    right = ops.cast(ops.equal(ops.cast(y_true, "int32"), ops.cast(ops.argmax(y_pred, -1), "int32")), "float32")
    return ops.sum(right * counted) / ops.maximum(ops.sum(counted), 1.0)


def make_model(program: Program, steps: int, seed: int) -> Transformer:
    """Return the compiled network of a program with the weights that its training starts from."""
    spec = program.layers[0]
    model = build(spec)
    weights = weights_of(model)
    if spec.get("pretrained") and not spec.get("wrong", {}).get("not_loaded"):
        weights |= matching(pretrained(str(spec["pretrained"])), {name: w.shape for name, w in weights.items()})
    set_weights(model, edited(weights, spec.get("edits", ()), seed))
    freeze(model, tuple(spec.get("frozen", ())))
    decodes = spec["form"] == "decoder"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED if decodes else None)
    metrics = [masked_accuracy if decodes else "accuracy"]
    model.compile(optimizer=_optimizer(program, model, steps), loss=loss, metrics=metrics)
    return model


def train_transformer(program: Program, data: Arrays, seed: int, watch: Callable[..., Any]) -> tuple[float, Any]:
    """Train a program whose only layer is a ``transformer``; return the test score and the monitor."""
    spec = program.layers[0]
    parts = int(spec.get("accumulate", 1))
    rows = len(data.x_train) // program.batch_size * program.batch_size if parts > 1 else len(data.x_train)
    steps = program.epochs * -(-rows // program.batch_size)
    model = make_model(program, steps, seed)
    with watch(model) as monitor:
        model.fit(
            data.x_train[:rows].astype("int32"),
            training_targets(program, data)[:rows],
            batch_size=program.batch_size // parts,
            epochs=program.epochs,
            validation_data=(data.x_test.astype("int32"), data.y_test),
            validation_batch_size=512,
            verbose=0,
        )
    return score(program, _predict(model, data.x_test), data.y_test), monitor


def _predict(model: Transformer, x: NDArray[Any]) -> NDArray[Any]:
    texts = beginnings(x) if model.decodes else x
    outputs = np.asarray(model.predict(texts.astype("int32"), verbose=0, batch_size=500))
    return last_scores(outputs, len(x)) if model.decodes else outputs


def _optimizer(program: Program, model: Transformer, steps: int) -> keras.optimizers.Optimizer:
    spec, layer = program.optimizer, program.layers[0]
    wrong = layer.get("wrong", {})
    settings: dict[str, Any] = {}
    if "clip_norm" in spec:
        settings["global_clipnorm"] = spec["clip_norm"]
    if int(layer.get("accumulate", 1)) > 1:
        settings["gradient_accumulation_steps"] = int(layer["accumulate"])
    rate = WarmUp(float(spec["lr"]), steps, dict(spec), int(wrong.get("scheduler_steps", 1)))
    if spec["name"] == "sgd":
        return keras.optimizers.SGD(rate, momentum=spec["momentum"], **settings)
    if spec["name"] == "adam":
        return keras.optimizers.Adam(rate, **settings)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=spec["weight_decay"], **settings)
    if wrong.get("decay") != "all":
        optimizer.exclude_from_weight_decay(
            var_list=[*model.tokens.weights, *model.positions.weights], var_names=["bias", "gamma", "beta"]
        )
    return optimizer
