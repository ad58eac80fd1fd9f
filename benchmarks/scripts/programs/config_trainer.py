"""Class-based trainer with a config, early stopping and checkpoints."""
import copy
import sys
from dataclasses import dataclass

import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Config:
    lr: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 25
    patience: int = 25
    double_softmax: bool = False


class Net(nn.Module):
    def __init__(self, n_in, config):
        super().__init__()
        self.config = config
        self.fc1 = nn.Linear(n_in, 32)
        self.drop = nn.Dropout(0.1)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x):
        out = self.fc2(self.drop(torch.relu(self.fc1(x))))
        if self.config.double_softmax:
            out = torch.softmax(out, dim=0)
        return out


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.bad, self.state = patience, float("inf"), 0, None

    def __call__(self, value, model):
        if value < self.best:
            self.best, self.bad, self.state = value, 0, copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience


class Trainer:
    def __init__(self, model, config):
        self.model, self.config = model, config
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
        self.criterion = nn.CrossEntropyLoss()
        self.stopper = EarlyStopping(config.patience)

    def train_epoch(self, loader):
        self.model.train()
        for x, y in loader:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.criterion(self.model(x), y)
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        total = correct = n = 0
        for x, y in loader:
            out = self.model(x)
            total += self.criterion(out, y).item() * len(x)
            correct += (out.argmax(1) == y).sum().item()
            n += len(x)
        return total / n, correct / n

    def fit(self, train_loader, val_loader):
        for epoch in range(self.config.max_epochs):
            self.train_epoch(train_loader)
            loss, accuracy = self.evaluate(val_loader)
            print(f"{epoch}: {loss:.4f} {accuracy:.3f}")
            if self.stopper(loss, self.model):
                break
        self.model.load_state_dict(self.stopper.state)


def main():
    torch.manual_seed(0)
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    config = Config(**{k.removeprefix("--"): type(getattr(Config, k.removeprefix("--")))(float(v)) for k, v in options.items()})
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    xt, xv, yt, yv = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    make = lambda a, b, s: DataLoader(TensorDataset(torch.tensor(a).float(), torch.tensor(b)), config.batch_size, shuffle=s)
    Trainer(Net(30, config), config).fit(make(xt, yt, True), make(xv, yv, False))


if __name__ == "__main__":
    main()
