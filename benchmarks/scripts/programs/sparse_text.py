import argparse

import numpy as np
import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--lr", type=float, default=0.05)
args = p.parse_args()
torch.manual_seed(0)
rng = np.random.default_rng(0)
topics = rng.dirichlet(np.full(300, 0.1), size=4)
y = rng.integers(0, 4, 1000)
counts = np.stack([rng.multinomial(40, topics[label]) for label in y])
X = torch.tensor(counts, dtype=torch.float32).to_sparse()
y = torch.tensor(y)


class BagOfWords(nn.Module):
    def __init__(self, words, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(words, 32) * 0.05)
        self.out = nn.Linear(32, classes)

    def forward(self, x):
        return self.out(torch.relu(torch.sparse.mm(x, self.weight)))


model = BagOfWords(300, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
loss_fn = nn.CrossEntropyLoss()
for epoch in range(20):
    for start in range(0, 1000, 50):
        batch = X.index_select(0, torch.arange(start, start + 50))
        loss = loss_fn(model(batch), y[start : start + 50])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
