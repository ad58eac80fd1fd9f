import argparse

import torch
from torch import nn


class Ranker(nn.Module):
    def __init__(self, n_features):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_features, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning-rate", type=float, default=0.005)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.manual_seed(0)
    items = torch.randn(600, 15)
    relevance = items[:, :5].sum(1) + torch.sin(2 * items[:, 5]) + 0.1 * torch.randn(600)
    model = Ranker(15)
    criterion = nn.MarginRankingLoss(margin=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    for step in range(args.steps):
        i, j = torch.randint(0, 500, (2, 64))
        sign = torch.sign(relevance[i] - relevance[j])
        loss = criterion(model(items[i]), model(items[j]), sign)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            with torch.no_grad():
                s = model(items[500:])
                a, b = torch.triu_indices(100, 100, 1)
                right = ((s[a] > s[b]) == (relevance[500:][a] > relevance[500:][b])).float().mean()
            print(step, loss.item(), right.item())


main()
