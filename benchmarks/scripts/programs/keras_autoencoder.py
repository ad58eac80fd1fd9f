import argparse

import keras
from keras import layers
from sklearn.datasets import load_digits

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=16.0)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    x = load_digits().data.astype("float32") / args.scale
    inputs = keras.Input((64,))
    encoded = layers.Dense(16, activation="relu")(layers.Dense(48, activation="relu")(inputs))
    decoded = layers.Dense(64, activation="sigmoid")(layers.Dense(48, activation="relu")(encoded))
    autoencoder = keras.Model(inputs, decoded)
    autoencoder.compile(optimizer="adam", loss="binary_crossentropy")
    autoencoder.fit(x[:1500], x[:1500], epochs=args.epochs, batch_size=64, validation_data=(x[1500:], x[1500:]), verbose=2)
