import argparse

import torch
from sklearn.datasets import load_breast_cancer

ap = argparse.ArgumentParser()
ap.add_argument("--lr", type=float, default=0.01)
ap.add_argument("--raw", action="store_true")
ap.add_argument("--eps", type=float, default=1e-7)
args = ap.parse_args()
torch.manual_seed(0)
data = load_breast_cancer()
X = torch.tensor(data.data, dtype=torch.float32)
Y = torch.tensor(data.target, dtype=torch.float32)
if not args.raw:
    X = (X - X.mean(0)) / X.std(0)


def log_loss(p, t):
    return -(t * torch.log(p + args.eps) + (1 - t) * torch.log(1 - p + args.eps)).mean()


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(30, 32)
        self.out = torch.nn.Linear(32, 1)

    def forward(self, x):
        return torch.sigmoid(self.out(torch.relu(self.hidden(x)))).squeeze(1)


net = Classifier()
opt = torch.optim.Adam(net.parameters(), lr=args.lr)
perm = torch.randperm(len(X))
X, Y = X[perm], Y[perm]
for epoch in range(40):
    for i in range(0, 400, 40):
        xb, yb = X[i : i + 40], Y[i : i + 40]
        loss = log_loss(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        acc = ((net(X[400:]) > 0.5).float() == Y[400:]).float().mean()
    print(epoch, loss.item(), acc.item())
