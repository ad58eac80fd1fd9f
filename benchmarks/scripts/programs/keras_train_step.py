import sys

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer

lr = float(sys.argv[1]) if len(sys.argv) > 1 else 1e-3


class CustomModel(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


keras.utils.set_random_seed(0)
x, y = load_breast_cancer(return_X_y=True)
x = ((x - x.mean(0)) / x.std(0)).astype("float32")
inputs = keras.Input(shape=(30,))
h = keras.layers.Dense(32, activation="relu")(inputs)
model = CustomModel(inputs, keras.layers.Dense(1, activation="sigmoid")(h))
model.compile(keras.optimizers.Adam(lr), loss="binary_crossentropy", metrics=["accuracy"])
order = np.random.permutation(len(x))
model.fit(x[order], y[order].astype("float32"), epochs=25, batch_size=32, validation_split=0.2, verbose=0)
print(model.evaluate(x, y, verbose=0))
