import sys

import autotrainer
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

faulty = "faulty" in sys.argv
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


teacher = mlp(128)
opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
for _ in range(150):
    opt.zero_grad()
    F.cross_entropy(teacher(x[:1400]), y[:1400]).backward()
    opt.step()


class AT(nn.Module):
    def forward(self, student, teacher):
        return F.mse_loss(student, teacher)


def train_step(student, optimizer, batch, labelled, at, monitor, beta=1.0):
    logits = student(x[batch])
    with torch.no_grad():
        soft = teacher(x[batch])
    at_loss = at(logits, soft) * beta
    if faulty:
        at_loss = at_loss.detach()
    ce = F.cross_entropy(student(x[labelled]), y[labelled])
    loss = 0.1 * ce + at_loss
    optimizer.zero_grad()
    loss.backward()
    monitor.log(loss=loss)
    optimizer.step()
    return loss.item()


student = mlp(48)
optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
labelled = torch.arange(30)
with autotrainer.watch(student, optimizer, epochs=25) as monitor:
    for epoch in range(25):
        order = torch.randperm(1400)
        losses = [train_step(student, optimizer, b, labelled, AT(), monitor) for b in order.split(64)]
        print(epoch, sum(losses) / len(losses))

with torch.no_grad():
    score = float((student(x[1400:]).argmax(1) == y[1400:]).float().mean())
print("accuracy", score)
