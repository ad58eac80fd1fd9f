import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.backbone(x))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone-lr", type=float, default=0.01)
    parser.add_argument("--head-lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    X, y = load_digits(return_X_y=True)
    loader = DataLoader(TensorDataset(torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)), 32, shuffle=True)
    net = Net()
    opt_backbone = torch.optim.SGD(net.backbone.parameters(), lr=args.backbone_lr, momentum=0.9)
    opt_head = torch.optim.Adam(net.head.parameters(), lr=args.head_lr)
    loss_fn = nn.CrossEntropyLoss()
    for epoch in range(15):
        for x, t in loader:
            loss = loss_fn(net(x), t)
            opt_backbone.zero_grad()
            opt_head.zero_grad()
            loss.backward()
            opt_backbone.step()
            opt_head.step()
        print(epoch, loss.item())
