"""Mixup, an exponential moving average of the weights, gradient clipping, accumulation."""
import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

p = argparse.ArgumentParser()
p.add_argument("--lr", type=float, default=2e-3)
p.add_argument("--alpha", type=float, default=0.2)
p.add_argument("--epochs", type=int, default=15)
p.add_argument("--detach", action="store_true")
a = p.parse_args()
torch.manual_seed(1)
x, y = load_digits(return_X_y=True)
x, y = torch.tensor(x / 16).float().view(-1, 1, 8, 8), torch.tensor(y)
train = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=64, shuffle=True, drop_last=True)


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(16 * 16, 10)

    def forward(self, x):
        h = self.features(x).flatten(1)
        if a.detach:
            h = h.detach()
        return self.head(h)


model = CNN()
ema = copy.deepcopy(model).requires_grad_(False)
opt = torch.optim.Adam(model.parameters(), lr=a.lr)
beta = torch.distributions.Beta(a.alpha, a.alpha)


def soft_cross_entropy(logits, target):
    return -(target * F.log_softmax(logits, 1)).sum(1).mean()


for epoch in range(a.epochs):
    model.train()
    for xb, yb in train:
        lam, perm = beta.sample().item(), torch.randperm(len(xb))
        t = F.one_hot(yb, 10).float()
        loss = soft_cross_entropy(model(lam * xb + (1 - lam) * xb[perm]), lam * t + (1 - lam) * t[perm])
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        with torch.no_grad():
            for e, m in zip(ema.state_dict().values(), model.state_dict().values()):
                if e.dtype.is_floating_point:
                    e.mul_(0.98).add_(m, alpha=0.02)
                else:
                    e.copy_(m)
    ema.eval()
    with torch.no_grad():
        print(epoch, loss.item(), (ema(x[1400:]).argmax(1) == y[1400:]).float().mean().item())
