import os

import keras
import numpy as np
from sklearn.datasets import make_moons

rate = float(os.environ.get("RATE", "0.01"))
keras.utils.set_random_seed(0)
x, y = make_moons(1000, noise=0.15, random_state=0)
x, y = x.astype("float32"), y.astype("float32")
model = keras.Sequential([keras.layers.Dense(24, activation="relu"), keras.layers.Dense(24, activation="relu"), keras.layers.Dense(1, activation="sigmoid")])
model.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(rate), metrics=["accuracy"])
for epoch in range(12):
    order = np.random.permutation(800)
    for start in range(0, 800, 40):
        rows = order[start : start + 40]
        logs = model.train_on_batch(x[rows], y[rows], return_dict=True)
    print(epoch, logs, model.evaluate(x[800:], y[800:], verbose=0))
