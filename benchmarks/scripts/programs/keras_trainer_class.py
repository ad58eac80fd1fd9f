"""A trainer class with compiled methods, metrics and a learning rate schedule."""
import os

import keras
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(0)
X = rng.normal(size=(900, 12)).astype("float32")
Y = np.argmax(X[:, :3] + 0.5 * X[:, 3:6] ** 2, 1)


class Trainer:
    def __init__(self, model, lr, from_logits):
        self.model = model
        self.optimizer = keras.optimizers.Adam(lr)
        self.loss_object = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        self.train_loss = keras.metrics.Mean(name="train_loss")
        self.val_accuracy = keras.metrics.SparseCategoricalAccuracy(name="val_accuracy")

    @tf.function
    def train_step(self, x, y):
        with tf.GradientTape() as tape:
            predictions = self.model(x, training=True)
            loss = self.loss_object(y, predictions)
        grads = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.model.trainable_variables))
        self.train_loss(loss)

    @tf.function
    def val_step(self, x, y):
        self.val_accuracy.update_state(y, self.model(x, training=False))

    def fit(self, epochs, batch=36):
        for epoch in range(epochs):
            self.train_loss.reset_state()
            self.val_accuracy.reset_state()
            order = rng.permutation(720)
            for i in range(0, 720, batch):
                self.train_step(X[order[i : i + batch]], Y[order[i : i + batch]])
            for i in range(720, 900, 60):
                self.val_step(X[i : i + 60], Y[i : i + 60])
            print(epoch, float(self.train_loss.result()), float(self.val_accuracy.result()))


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(48, activation="relu"), keras.layers.Dropout(0.1), keras.layers.Dense(3)]
    if os.environ.get("SOFTMAX"):
        layers.append(keras.layers.Softmax())
    Trainer(keras.Sequential(layers), float(os.environ.get("LR", "0.003")), True).fit(15)
