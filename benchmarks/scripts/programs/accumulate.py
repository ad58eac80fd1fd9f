import argparse

import torch
from sklearn.datasets import make_classification
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--accumulation-steps", type=int, default=4)
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--keep-grad", action="store_true")
args = parser.parse_args()


def main():
    torch.manual_seed(0)
    x, y = make_classification(2000, 20, n_informative=8, n_classes=3, class_sep=1.5, random_state=0)
    ds = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    loader = DataLoader(ds, batch_size=8, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    for epoch in range(args.epochs):
        total = 0.0
        for i, (xb, yb) in enumerate(loader):
            loss = loss_fn(model(xb), yb) / args.accumulation_steps
            loss.backward()
            total += loss.item() * args.accumulation_steps
            if (i + 1) % args.accumulation_steps == 0:
                optimizer.step()
                if not args.keep_grad:
                    optimizer.zero_grad()
        print(f"[{epoch}] {total / len(loader):.4f}")


main()
