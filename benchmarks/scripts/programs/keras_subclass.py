import argparse
import os
import tempfile

import keras
import tensorflow as tf
from sklearn.datasets import load_digits


class MLP(keras.Model):
    def __init__(self, depth, activation):
        super().__init__()
        self.hidden = [keras.layers.Dense(48, activation=activation) for _ in range(depth)]
        self.classifier = keras.layers.Dense(10)

    def call(self, inputs):
        x = inputs
        for layer in self.hidden:
            x = layer(x)
        return self.classifier(x)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    train = tf.data.Dataset.from_tensor_slices((x[:1400], y[:1400])).shuffle(1400, seed=0).batch(32)
    val = tf.data.Dataset.from_tensor_slices((x[1400:], y[1400:])).batch(128)
    model = MLP(args.depth, args.activation)
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [
            keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(patience=3),
            keras.callbacks.ModelCheckpoint(os.path.join(folder, "best.weights.h5"), save_best_only=True, save_weights_only=True),
        ]
        model.fit(train, validation_data=val, epochs=args.epochs, callbacks=callbacks, verbose=2)
