"""A teacher, then a smaller student that learns from its predictions."""
import os

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

STUDENT_LR = float(os.environ.get("STUDENT_LR", 2e-3))
torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(y)


def mlp(hidden):
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def train_teacher(model, epochs=10):
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for rows in torch.randperm(1400).split(32):
            loss = F.cross_entropy(model(X[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
        print("teacher", epoch, accuracy(model))


def train_student(student, teacher, epochs=15, T=2.0):
    opt = torch.optim.Adam(student.parameters(), lr=STUDENT_LR)
    teacher.eval()
    for epoch in range(epochs):
        student.train()
        for rows in torch.randperm(1400).split(32):
            with torch.no_grad():
                soft = (teacher(X[rows]) / T).softmax(1)
            loss = F.kl_div((student(X[rows]) / T).log_softmax(1), soft, reduction="batchmean") * T * T
            opt.zero_grad()
            loss.backward()
            opt.step()
        print("student", epoch, accuracy(student))


@torch.no_grad()
def accuracy(model):
    model.eval()
    return (model(X[1400:]).argmax(1) == y[1400:]).float().mean().item()


teacher = mlp(128)
train_teacher(teacher)
train_student(mlp(32), teacher)
