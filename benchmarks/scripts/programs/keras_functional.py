import argparse

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_diabetes


def build(output):
    age_sex = keras.Input(shape=(2,), name="person")
    blood = keras.Input(shape=(8,), name="blood")
    a = layers.Dense(8, activation="relu")(age_sex)
    b = layers.Dense(16, activation="relu")(blood)
    x = layers.concatenate([a, b])
    x = layers.Dense(16, activation="relu")(x)
    return keras.Model([age_sex, blood], layers.Dense(1, activation=output)(x))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--output", default="linear")
    p.add_argument("--lr", type=float, default=0.005)
    args = p.parse_args()
    keras.utils.set_random_seed(1)
    x, y = load_diabetes(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    model = build(args.output)
    model.compile(optimizer=keras.optimizers.Adam(args.lr), loss="mse", metrics=["mae"])
    history = model.fit(
        {"person": x[:, :2], "blood": x[:, 2:]}, y, epochs=25, batch_size=32, validation_split=0.2, verbose=0
    )
    print(np.min(history.history["val_loss"]))


main()
