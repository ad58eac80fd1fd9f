import argparse
import logging

import torch
from sklearn.datasets import make_friedman1
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

logging.basicConfig(level=logging.INFO, format="%(message)s")
log = logging.getLogger(__name__)


def build_model(output):
    layers = [nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)]
    return nn.Sequential(*layers, nn.ReLU()) if output == "relu" else nn.Sequential(*layers)


def train(model, loader, criterion, optimizer):
    model.train()
    for features, target in loader:
        optimizer.zero_grad()
        loss = criterion(model(features), target)
        loss.backward()
        optimizer.step()


def evaluate(model, loader, criterion):
    model.eval()
    total = 0.0
    with torch.no_grad():
        for features, target in loader:
            total += criterion(model(features), target).item() * len(target)
    return total / len(loader.dataset)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--output", choices=["linear", "relu"], default="linear")
    ap.add_argument("--epochs", type=int, default=25)
    args = ap.parse_args()
    torch.manual_seed(0)
    x, y = make_friedman1(1200, noise=0.5, random_state=0)
    y = (y - y.mean()) / y.std()
    ds = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32).unsqueeze(1))
    train_set, test_set = random_split(ds, [1000, 200])
    train_loader, test_loader = DataLoader(train_set, 40, shuffle=True), DataLoader(test_set, 200)
    model = build_model(args.output)
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        train(model, train_loader, criterion, optimizer)
        log.info("epoch %d test mse %.4f", epoch, evaluate(model, test_loader, criterion))


if __name__ == "__main__":
    main()
