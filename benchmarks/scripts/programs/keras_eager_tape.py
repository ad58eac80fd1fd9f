"""Own loop, run eagerly."""
import os

import keras
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(0)
lr = float(os.environ.get("LR", "0.01"))
keras.utils.set_random_seed(0)
x = rng.normal(size=(512, 6)).astype("float32")
y = (x[:, :1] * x[:, 1:2] + np.sin(x[:, 2:3])).astype("float32")
model = keras.Sequential([keras.layers.Dense(32, activation="tanh"), keras.layers.Dense(1)])
optimizer = keras.optimizers.Adam(lr)
mse = keras.losses.MeanSquaredError()
for epoch in range(15):
    order = rng.permutation(len(x))
    total = 0.0
    for start in range(0, len(x), 32):
        rows = order[start : start + 32]
        with tf.GradientTape() as tape:
            loss = mse(y[rows], model(x[rows], training=True))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        total += float(loss)
    print(epoch, total / 16)
