import argparse

import torch
from sklearn.datasets import make_multilabel_classification
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.005)
parser.add_argument("--activation", choices=["sigmoid", "softmax"], default="sigmoid")
args = parser.parse_args()

torch.manual_seed(0)
x, y = make_multilabel_classification(1500, 30, n_classes=6, n_labels=3, random_state=0)
x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
y = torch.tensor(y, dtype=torch.float32)
train, valid = TensorDataset(x[:1200], y[:1200]), TensorDataset(x[1200:], y[1200:])
last = nn.Sigmoid() if args.activation == "sigmoid" else nn.Softmax(dim=1)
model = nn.Sequential(nn.Linear(30, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 6), last)
criterion, optimizer = nn.BCELoss(), torch.optim.Adam(model.parameters(), args.lr)


def run(loader, training):
    model.train(training)
    total = hits = 0.0
    with torch.set_grad_enabled(training):
        for inputs, targets in loader:
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(inputs)
            hits += ((outputs > 0.5) == targets.bool()).float().mean(1).sum().item()
    return total / len(loader.dataset), hits / len(loader.dataset)


train_loader, valid_loader = DataLoader(train, 50, shuffle=True), DataLoader(valid, 300)
for epoch in range(15):
    print(epoch, *run(train_loader, True), *run(valid_loader, False))
