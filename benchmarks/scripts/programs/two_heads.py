import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_wine
from torch import nn


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.kind, self.alcohol = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, x):
        h = self.body(x)
        return self.kind(h), self.alcohol(h).squeeze(-1)


def main(argv=None):
    p = argparse.ArgumentParser()
    p.add_argument("--lr", type=float, default=0.003)
    p.add_argument("--alpha", type=float, default=0.5)
    args = p.parse_args(argv)
    torch.manual_seed(0)
    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    a, x = x[:, 0], x[:, 1:]
    order = torch.randperm(len(x))
    train, val = order[:140], order[140:]
    model = TwoHeads()
    opt = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=1e-3)
    for epoch in range(60):
        model.train()
        for rows in train[torch.randperm(len(train))].split(20):
            kind, alcohol = model(x[rows])
            loss = F.cross_entropy(kind, y[rows]) + args.alpha * F.mse_loss(alcohol, a[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            kind, alcohol = model(x[val])
            print(epoch, (kind.argmax(1) == y[val]).float().mean().item(), F.mse_loss(alcohol, a[val]).item())


if __name__ == "__main__":
    main()
