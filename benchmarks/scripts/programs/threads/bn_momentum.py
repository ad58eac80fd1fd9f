import sys

import autotrainer
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

momentum = 0.001 if "faulty" in sys.argv else 0.1
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None], torch.tensor(digits.target)


class Residual(nn.Module):
    def __init__(self, input_channel, output_channel):
        super().__init__()
        self.conv1 = nn.Conv2d(input_channel, output_channel, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(output_channel, momentum=momentum)
        self.conv2 = nn.Conv2d(output_channel, output_channel, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(output_channel, momentum=momentum)
        self.conv3 = nn.Conv2d(input_channel, output_channel, 1)

    def forward(self, X):
        Y = torch.relu(self.bn1(self.conv1(X)))
        return torch.relu(self.bn2(self.conv2(Y)) + self.conv3(X))


net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(),
    Residual(16, 16), nn.MaxPool2d(2), Residual(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
)
loss_fn = nn.CrossEntropyLoss()
trainer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
train_iter = DataLoader(TensorDataset(x[:1400], y[:1400]), 64, shuffle=True)
with autotrainer.watch(net, trainer, loss_fn=loss_fn, epochs=8) as monitor:
    for epoch in range(8):
        net.train()
        for X, Y in train_iter:
            trainer.zero_grad()
            loss = loss_fn(net(X), Y)
            loss.backward()
            trainer.step()
        net.eval()
        with torch.no_grad():
            train_acc = (net(x[:1400]).argmax(1) == y[:1400]).float().mean().item()
            test_acc = (net(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
        print(f"epoch {epoch} loss {loss:.3f} train acc {train_acc:.3f} test acc {test_acc:.3f}")
        monitor.end_epoch(val_accuracy=test_acc)
score = test_acc
