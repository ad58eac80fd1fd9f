"""Pretrains on one task, then freezes the body and trains a new head; torch.compile where it is asked for."""
import os

import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(0)
X, Y = load_digits(return_X_y=True)
X, Y = torch.tensor(X / 16).float(), torch.tensor(Y)
body = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
wrap = torch.compile if os.environ.get("COMPILE") else (lambda m: m)
criterion = nn.CrossEntropyLoss()


def train(model, targets, params, lr, epochs):
    optimizer = torch.optim.Adam(params, lr=lr)
    for epoch in range(epochs):
        for idx in torch.randperm(1200).split(60):
            optimizer.zero_grad()
            loss = criterion(model(X[idx]), targets[idx])
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            acc = (model(X[1200:]).argmax(1) == targets[1200:]).float().mean()
    print(f"loss {loss.item():.3f} accuracy {acc:.3f}")


parity = wrap(nn.Sequential(body, nn.Linear(32, 2)))
train(parity, Y % 2, parity.parameters(), 1e-3, 10)
for parameter in body.parameters():
    parameter.requires_grad_(False)
head = nn.Linear(32, 10)
train(nn.Sequential(body, head), Y, head.parameters(), float(os.environ.get("HEAD_LR", "0.01")), 15)
