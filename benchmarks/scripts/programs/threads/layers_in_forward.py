import sys

import autotrainer
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

faulty = "faulty" in sys.argv
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=32, shuffle=True)


class NeuralNet(nn.Module):
    def __init__(self):
        super().__init__()
        if not faulty:
            self.hidden = nn.Linear(64, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        hidden = nn.Linear(64, 64) if faulty else self.hidden
        return self.out(F.relu(hidden(x)))


model = NeuralNet()
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
with autotrainer.watch(model, optimizer, loss_fn=loss_fn) as monitor:
    for epoch in range(20):
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(xb), yb)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
        print(f"epoch {epoch} loss {loss.item():.3f} val accuracy {accuracy:.3f}")
score = accuracy
