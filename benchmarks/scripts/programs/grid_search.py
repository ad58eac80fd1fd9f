"""A loop over hyper-parameters; every model is trained with a function, the best one is kept."""
import itertools
import sys

import torch
from sklearn.datasets import make_regression

torch.manual_seed(0)
X, y = make_regression(400, 8, noise=5.0, random_state=0)
X = torch.tensor(X, dtype=torch.float32)
y = torch.tensor(y, dtype=torch.float32)[:, None]
if "--raw" not in sys.argv:
    y = (y - y.mean()) / y.std()
lrs = [float(v) for v in sys.argv[1].split(",")] if len(sys.argv) > 1 and sys.argv[1][0].isdigit() else [3e-3, 1e-2]


def train(lr, width, epochs=60):
    net = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
    optim = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(epochs):
        for i in range(0, 300, 50):
            optim.zero_grad()
            loss = torch.nn.functional.mse_loss(net(X[i : i + 50]), y[i : i + 50])
            loss.backward()
            optim.step()
    with torch.no_grad():
        return torch.nn.functional.mse_loss(net(X[300:]), y[300:]).item(), net


results = {}
for lr, width in itertools.product(lrs, (16, 32)):
    results[lr, width], _ = train(lr, width)
    print(lr, width, results[lr, width])
print("best", min(results, key=results.get))
