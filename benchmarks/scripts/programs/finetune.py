"""Pretrain a network on one half of the classes, then train a new head on the other half, then all of it."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU())
        self.fc = nn.Linear(48, classes)

    def forward(self, x):
        return self.fc(self.body(x))


def fit(model, params, loader, epochs, lr, name):
    optimizer = torch.optim.Adam(params, lr=lr)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(name, epoch, total / len(loader))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--head-lr", type=float, default=1e-2)
    args = parser.parse_args()
    torch.manual_seed(0)
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)
    low, high = y < 5, y >= 5
    source = DataLoader(TensorDataset(X[low], y[low]), 32, shuffle=True)
    target = DataLoader(TensorDataset(X[high], y[high] - 5), 32, shuffle=True)
    model = Net(5)
    fit(model, model.parameters(), source, 8, args.lr, "pretrain")
    for p in model.body.parameters():
        p.requires_grad = False
    model.fc = nn.Linear(48, 5)
    fit(model, model.fc.parameters(), target, 25, args.head_lr, "head")


if __name__ == "__main__":
    main()
