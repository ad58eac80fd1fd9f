"""Trains, saves a checkpoint, builds everything again and resumes from it."""
import io
import os

import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

rate = float(os.environ.get("RATE", "0.02"))
restore = os.environ.get("RESTORE", "1") == "1"
x, y = load_iris(return_X_y=True)
x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
y = torch.tensor(y)
data = DataLoader(TensorDataset(x, y), batch_size=15, shuffle=True)


def build():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)


def run(model, optimizer, scheduler, first, last):
    criterion = nn.CrossEntropyLoss()
    for epoch in range(first, last):
        for xb, yb in data:
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
        scheduler.step()
    print(last, loss.item())


parts = build()
run(*parts, 0, 20)
file = io.BytesIO()
torch.save([part.state_dict() for part in parts], file)
file.seek(0)
parts = build()
for part, state in zip(parts, torch.load(file, weights_only=True)):
    part.load_state_dict(state)
run(*parts, 20, 40)
