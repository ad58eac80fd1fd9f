import os

import keras
import numpy as np

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)
x = rng.normal(size=(800, 10)).astype("float32")
value = (x[:, :1] - x[:, 1:2] * x[:, 2:3]).astype("float32")
label = (x[:, 3] + x[:, 4] > 0).astype("int32")
value *= float(os.environ.get("SCALE", "1"))
inp = keras.Input((10,), name="features")
h = keras.layers.Dense(64, activation="relu")(inp)
h = keras.layers.Dense(32, activation="relu")(h)
a = keras.layers.Dense(1, name="value")(h)
b = keras.layers.Dense(2, activation="softmax", name="label")(h)
model = keras.Model(inp, {"value": a, "label": b})
model.compile(
    optimizer=keras.optimizers.Adam(float(os.environ.get("LR", "0.003"))),
    loss={"value": "mse", "label": "sparse_categorical_crossentropy"},
    loss_weights={"value": 1.0, "label": 0.5},
)
model.fit(x, {"value": value, "label": label}, batch_size=32, epochs=25, validation_split=0.2, verbose=2)
