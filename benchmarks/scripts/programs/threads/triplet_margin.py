import sys

import autotrainer
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

faulty = "faulty" in sys.argv
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
train_x, train_y, test_x, test_y = x[:1300], y[:1300], x[1300:], y[1300:]


def batch_hard_triplet_loss(embeddings, labels, margin=0.5):
    distance = torch.cdist(embeddings, embeddings)
    same = labels[:, None] == labels[None]
    hardest_positive = (distance * same).max(1).values
    hardest_negative = (distance + 1e6 * same).min(1).values
    return torch.relu(hardest_positive - hardest_negative + margin).mean()


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(128, 64)
        self.fc2 = nn.Linear(64, 16)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


net = Embedder()
optimizer = torch.optim.Adam(net.parameters(), lr=0.05 if faulty else 1e-3)
monitor = autotrainer.watch(net, optimizer)
for step in range(900):
    picked = torch.cat([torch.nonzero(train_y == c).flatten()[torch.randperm(100)[:6]] for c in range(10)])
    loss = batch_hard_triplet_loss(net(train_x[picked]), train_y[picked])
    optimizer.zero_grad()
    loss.backward()
    monitor.log(loss=loss)
    optimizer.step()
    if step % 100 == 0:
        print(step, loss.item())
monitor.close()

net.eval()
with torch.no_grad():
    nearest = torch.cdist(net(test_x), net(train_x)).argmin(1)
score = (train_y[nearest] == test_y).float().mean().item()
print("1-NN accuracy", score)
