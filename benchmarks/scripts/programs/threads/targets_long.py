import sys

import autotrainer
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import make_friedman1
from torch.utils.data import DataLoader, Dataset

faulty = "faulty" in sys.argv
torch.manual_seed(0)
features, target = make_friedman1(1500, noise=0.5, random_state=0)
target = (target - target.min()) / (target.max() - target.min()) * 0.98


class RegressionData(Dataset):
    def __init__(self, rows):
        self.x, self.y = features[rows], target[rows]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        label = torch.tensor(self.y[i])
        if faulty:
            label = label.to(torch.long)
        return torch.tensor(self.x[i], dtype=torch.float32), label


train, test = RegressionData(slice(0, 1200)), RegressionData(slice(1200, None))
model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
loss_fn = nn.MSELoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def run_epoch(loader):
    model.train()
    for xb, yb in loader:
        prediction = model(xb).squeeze(1)
        loss = loss_fn(prediction, yb.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=25) as monitor:
    loader = DataLoader(train, batch_size=32, shuffle=True)
    for epoch in range(25):
        print(epoch, run_epoch(loader))

model.eval()
with torch.no_grad():
    predicted = model(torch.tensor(test.x, dtype=torch.float32)).squeeze(1).numpy()
score = 1 - float(((predicted - test.y) ** 2).mean() / test.y.var())
print("R2", np.round(score, 3))
