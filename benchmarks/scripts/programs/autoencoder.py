import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))
        self.decoder = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 64), nn.Sigmoid())

    def forward(self, x):
        return self.decoder(self.encoder(x))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--loss", choices=["bce", "mse"], default="bce")
    parser.add_argument("--scale", type=float, default=16.0, help="divide the pixels by this")
    args = parser.parse_args()
    torch.manual_seed(0)
    X = torch.tensor(load_digits().data, dtype=torch.float32) / args.scale
    loader = DataLoader(X[:1500], batch_size=64, shuffle=True)
    net = AutoEncoder()
    loss_fn = nn.MSELoss()
    if args.loss == "bce":
        loss_fn = lambda out, target: -(target * out.clamp(1e-7).log() + (1 - target) * (1 - out).clamp(1e-7).log()).mean()
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        net.train()
        for batch in loader:
            loss = loss_fn(net(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            print(epoch, float(loss_fn(net(X[1500:]), X[1500:])))
