"""Regression on the diabetes data, batches cut by hand."""
import argparse

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes


def batches(x, y, size, rng):
    order = rng.permutation(len(x))
    for start in range(0, len(x), size):
        rows = order[start : start + size]
        yield torch.from_numpy(x[rows]), torch.from_numpy(y[rows])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--raw-targets", action="store_true", help="do not standardize the targets")
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = load_diabetes(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    y = y.astype("float32")[:, None]
    if not args.raw_targets:
        y = (y - y.mean()) / y.std()
    x_train, y_train, x_val, y_val = x[:350], y[:350], x[350:], y[350:]
    model = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        losses = []
        for inputs, targets in batches(x_train, y_train, 25, rng):
            loss = F.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        with torch.no_grad():
            val = F.mse_loss(model(torch.from_numpy(x_val)), torch.from_numpy(y_val)).item()
        if epoch % 10 == 0:
            print(f"epoch {epoch}: {np.mean(losses):.3f} {val:.3f}")


main()
