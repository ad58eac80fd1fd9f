import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class Pairs(Dataset):
    def __init__(self, x, y, n=1600):
        g = torch.Generator().manual_seed(0)
        self.x, self.y = x, y
        self.a = torch.randint(0, len(x), (n,), generator=g)
        self.b = torch.randint(0, len(x), (n,), generator=g)
        same = torch.rand(n, generator=g) < 0.5
        by_class = [torch.where(y == c)[0] for c in range(10)]
        for i in torch.where(same)[0]:
            rows = by_class[y[self.a[i]]]
            self.b[i] = rows[torch.randint(0, len(rows), (1,), generator=g)]

    def __len__(self):
        return len(self.a)

    def __getitem__(self, i):
        a, b = self.a[i], self.b[i]
        return self.x[a], self.x[b], (self.y[a] != self.y[b]).float()


class ContrastiveLoss(nn.Module):
    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, a, b, label):
        d = F.pairwise_distance(a, b)
        return torch.mean((1 - label) * d.pow(2) + label * F.relu(self.margin - d).pow(2))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--margin", type=float, default=1.0)
    args = p.parse_args()
    torch.manual_seed(0)
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)
    loader = DataLoader(Pairs(X, y), batch_size=64, shuffle=True)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    criterion = ContrastiveLoss(args.margin)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    for epoch in range(15):
        total = 0
        for a, b, label in loader:
            optimizer.zero_grad()
            loss = criterion(net(a), net(b), label)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(epoch, total / len(loader))


if __name__ == "__main__":
    main()
