"""A variational autoencoder with a loop of its own, compiled, as in TensorFlow's tutorials."""
import argparse

import keras
import tensorflow as tf
from sklearn.datasets import load_digits


class VAE(keras.Model):
    def __init__(self, latent=4):
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(2 * latent)])
        self.decoder = keras.Sequential([keras.Input((latent,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(64)])
        self.seeds = keras.random.SeedGenerator(0)

    def encode(self, x):
        return tf.split(self.encoder(x), 2, axis=1)

    def reparameterize(self, mean, logvar):
        return mean + keras.random.normal(tf.shape(mean), seed=self.seeds) * tf.exp(logvar * 0.5)


def compute_loss(model, x):
    mean, logvar = model.encode(x)
    logits = model.decoder(model.reparameterize(mean, logvar))
    rec = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits), 1)
    kl = -0.5 * tf.reduce_sum(1 + logvar - mean**2 - tf.exp(logvar), 1)
    return tf.reduce_mean(rec + kl)


@tf.function
def train_step(model, x, optimizer):
    with tf.GradientTape() as tape:
        loss = compute_loss(model, x)
    optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    x = (load_digits().data / 16).astype("float32")
    train = tf.data.Dataset.from_tensor_slices(x[:1400]).shuffle(1400, seed=0).batch(64)
    test = tf.data.Dataset.from_tensor_slices(x[1400:]).batch(64)
    model, optimizer = VAE(), keras.optimizers.Adam(args.lr)
    for epoch in range(1, 16):
        for batch in train:
            train_step(model, batch, optimizer)
        mean = keras.metrics.Mean()
        for batch in test:
            mean(compute_loss(model, batch))
        print(epoch, float(mean.result()))


if __name__ == "__main__":
    main()
