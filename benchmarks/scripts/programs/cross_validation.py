import os

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold
from torch import nn, optim

LR = float(os.environ.get("LR", "0.01"))
SCALE = os.environ.get("SCALE", "1") == "1"
X, y = load_wine(return_X_y=True)
scores = []
for fold, (tr, te) in enumerate(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)):
    torch.manual_seed(fold)
    Xtr, Xte = X[tr], X[te]
    if SCALE:
        mu, sd = Xtr.mean(0), Xtr.std(0)
        Xtr, Xte = (Xtr - mu) / sd, (Xte - mu) / sd
    Xtr, Xte = torch.FloatTensor(Xtr), torch.FloatTensor(Xte)
    ytr, yte = torch.LongTensor(y[tr]), torch.LongTensor(y[te])
    net = nn.Sequential(nn.Linear(13, 24), nn.ReLU(), nn.Linear(24, 3))
    opt = optim.SGD(net.parameters(), lr=LR, momentum=0.9)
    crit = nn.CrossEntropyLoss()
    for ep in range(40):
        net.train()
        for idx in torch.randperm(len(Xtr)).split(16):
            opt.zero_grad()
            crit(net(Xtr[idx]), ytr[idx]).backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            acc = (net(Xte).argmax(1) == yte).float().mean().item()
    scores.append(acc)
    print("fold", fold, acc)
print(np.mean(scores))
