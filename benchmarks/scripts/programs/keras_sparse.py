import argparse

import keras
import numpy as np
from scipy.sparse import csr_matrix

p = argparse.ArgumentParser()
p.add_argument("--lr", type=float, default=0.005)
args = p.parse_args()
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
topics = rng.dirichlet(np.full(300, 0.1), size=4)
labels = rng.integers(0, 4, 1000)
counts = np.stack([rng.multinomial(40, topics[label]) for label in labels]).astype("float32")
model = keras.Sequential([keras.Input((300,), sparse=True), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(4)])
model.compile(keras.optimizers.Adam(args.lr), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(csr_matrix(counts[:800]), labels[:800], epochs=12, batch_size=40, validation_data=(csr_matrix(counts[800:]), labels[800:]), verbose=2)
