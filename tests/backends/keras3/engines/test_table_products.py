"""Output layers that multiply by the table of an embedding are found, and taken for nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from autotrainer.backends.keras3.engines.step_recorder import StepRecorder
from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.monitoring.guard import StatisticGuard

TOKENS = np.random.RandomState(0).randint(0, 7, (4, 5))


class Net(keras.Model):
    """Embeds tokens, and reads scores of tokens off with the same table."""

    def __init__(self, scores: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.tokens = layers.ReversibleEmbedding(7, 6, name="tokens")
        self.expand, self.contract = layers.Dense(12, "relu", name="expand"), layers.Dense(6, name="contract")
        self.norm, self.scores = layers.LayerNormalization(name="norm"), scores

    def call(self, x: Any) -> Any:
        return self.scores(self, self.norm(self.contract(self.expand(self.tokens(x)))))


def _recorded(model: Any) -> tuple[StepRecorder, Any, list[Exception]]:
    failures: list[Exception] = []
    model(TOKENS)
    guard = StatisticGuard(lambda name, error, row=None: failures.append(error))
    recorder = StepRecorder(model, watched_layers(model), guard)
    recorded = recorder.record(lambda: model(TOKENS))
    return recorder, recorded.get("features"), failures


@pytest.mark.parametrize(
    ("scores", "tied"),
    [
        (lambda net, h: ops.matmul(h, ops.transpose(net.tokens.embeddings)), True),
        (lambda net, h: ops.matmul(h, ops.transpose(ops.convert_to_tensor(net.tokens.embeddings))), True),
        (lambda net, h: ops.matmul(h, ops.cast(ops.transpose(net.tokens.embeddings), "float32")), True),
        (lambda net, h: ops.einsum("btd,vd->btv", h, net.tokens.embeddings), True),
        (lambda net, h: ops.tensordot(h, net.tokens.embeddings, axes=[[2], [1]]), True),
        (lambda net, h: ops.matmul(h, ops.transpose(net.tokens.embeddings)) / 2 + 1, True),
        (lambda net, h: h @ ops.transpose(net.tokens.embeddings), True),
        (lambda net, h: (h @ ops.transpose(net.tokens.embeddings)) / 2, True),
        (lambda net, h: ops.concatenate([h, h], -1), False),
        (lambda net, h: net.norm(net.tokens(h, reverse=True)[..., :6]), True),
        (lambda net, h: net.tokens(h, reverse=True), True),
        (lambda net, h: net.contract(net.expand(net.tokens(ops.argmax(net.tokens(h, reverse=True), -1)))), False),
        (lambda net, h: h, False),
        (lambda net, h: ops.matmul(h, ops.transpose(h, (0, 2, 1))), False),
    ],
)
def test_the_output_layer_is_found(scores: Callable[[Any, Any], Any], tied: bool) -> None:
    recorder, features, failures = _recorded(Net(scores))
    assert not failures
    assert features.dtype.name == "float32"  # not the token ids that an embedding takes first
    assert tuple(features.shape) == (4, 5, 6) or not tied
    assert recorder.tied_row == (0 if tied else None)
    assert recorder.layers[0].info.name == "tokens"


SCRIPT = """
import json
import keras, numpy as np
from keras import layers, ops
import autotrainer

class Head(layers.Layer):
    def __init__(self, embedding, **options):
        super().__init__(**options)
        self.embedding = embedding
    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))

class Net(keras.Model):
    def __init__(self, size, units):
        super().__init__()
        self.tokens, self.norm = layers.Embedding(size, units, name="tokens"), layers.LayerNormalization(name="norm")
        self.expand = layers.Dense(2 * units, "relu", name="expand")
        self.contract = layers.Dense(units, name="contract")
        self.calls = 0
    def call(self, x):
        self.calls += 1
        hidden = self.contract(self.expand(self.tokens(x)))
        return ops.matmul(self.norm(hidden), ops.transpose(self.tokens.embeddings))

class Operator(Net):
    def call(self, x):
        return self.norm(self.contract(self.expand(self.tokens(x)))) @ ops.transpose(self.tokens.embeddings)

def functional():
    tokens = layers.Embedding(7, 6, name="tokens")
    x = keras.Input((5,), dtype="int32")
    hidden = layers.Dense(6, name="contract")(layers.Dense(12, "relu", name="expand")(tokens(x)))
    return keras.Model(x, Head(tokens)(layers.LayerNormalization(name="norm")(hidden)))

x = np.random.RandomState(0).randint(0, 7, (64, 5))

def train(make, watched):
    keras.utils.set_random_seed(1)
    model = make()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model(x[:1])
    monitor = autotrainer.watch(model, probe=True, overhead=1) if watched else None
    model.fit(x, x, epochs=1, batch_size=8, verbose=0)
    if watched:
        monitor.close()
    return model.get_weights(), monitor

result = {}
makes = {"subclass": lambda: Net(7, 6), "operator": lambda: Operator(7, 6), "functional": functional}
for name, make in makes.items():
    plain, _ = train(make, False)
    weights, monitor = train(make, True)
    result[name] = {
        "equal": all(np.array_equal(a, b) for a, b in zip(plain, weights)),
        "output": [layer.name for layer in monitor.context.layers if not layer.hidden],
        "ties": {layer.name: layer.tie for layer in monitor.context.layers if layer.tie},
        "features": bool(np.isfinite(monitor.history.scalar("feature_rank")).all()),
        "not_probed": monitor.context.asked["not_probed"],
    }
print(json.dumps(result))
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["tensorflow", "torch", "jax"])
def test_every_engine_shows_the_tied_output_layer(engine: str, run_python: Callable[..., Any]) -> None:
    done = run_python(SCRIPT, KERAS_BACKEND=engine, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    expected = {"equal": True, "output": ["tokens"], "ties": {"tokens": "kept"}, "features": True, "not_probed": 0.0}
    assert seen == dict.fromkeys(("subclass", "operator", "functional"), expected)
