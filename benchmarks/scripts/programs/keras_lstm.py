import argparse

import keras
import numpy as np
from keras.layers import LSTM, Dense, Embedding


def make_data(n):
    rng = np.random.default_rng(0)
    x = rng.integers(1, 50, (n, 20))
    y = ((x < 10).sum(1) > (x >= 40).sum(1)).astype("float32")
    return x, y


def build(optimizer):
    model = keras.Sequential()
    model.add(Embedding(50, 16))
    model.add(LSTM(24))
    model.add(Dense(1, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer=optimizer, metrics=["accuracy"])
    return model


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--lr", type=float, default=0.01)
    a = ap.parse_args()
    keras.utils.set_random_seed(0)
    x, y = make_data(1500)
    build(keras.optimizers.Adam(a.lr)).fit(x, y, epochs=8, batch_size=50, validation_split=0.2, verbose=2)
