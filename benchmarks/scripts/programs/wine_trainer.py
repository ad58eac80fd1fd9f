import argparse

import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, model, train_loader, val_loader, lr):
        self.model, self.train_loader, self.val_loader = model, train_loader, val_loader
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        self.best = float("inf")

    def run_epoch(self):
        self.model.train()
        total = 0.0
        for x, y in self.train_loader:
            loss = self.criterion(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(x)
        return total / len(self.train_loader.dataset)

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        total, correct = 0.0, 0
        for x, y in self.val_loader:
            out = self.model(x)
            total += self.criterion(out, y).item() * len(x)
            correct += (out.argmax(-1) == y).sum().item()
        n = len(self.val_loader.dataset)
        return total / n, correct / n

    def fit(self, epochs, patience=20):
        bad = 0
        for epoch in range(epochs):
            train_loss = self.run_epoch()
            val_loss, val_acc = self.validate()
            print(f"{epoch:3d} {train_loss:.4f} {val_loss:.4f} {val_acc:.3f}")
            if val_loss < self.best - 1e-4:
                self.best, bad = val_loss, 0
            else:
                bad += 1
                if bad >= patience:
                    print("early stop")
                    break


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=60)
    p.add_argument("--lr", type=float, default=0.01)
    p.add_argument("--no-scale", action="store_true")
    a = p.parse_args()
    torch.manual_seed(0)
    x, y = load_wine(return_X_y=True)
    xt, xv, yt, yv = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    if not a.no_scale:
        scaler = StandardScaler().fit(xt)
        xt, xv = scaler.transform(xt), scaler.transform(xv)
    make = lambda x, y: TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y))
    net = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    Trainer(net, DataLoader(make(xt, yt), 16, shuffle=True), DataLoader(make(xv, yv), 64), a.lr).fit(a.epochs)
