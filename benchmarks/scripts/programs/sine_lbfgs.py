import math
import sys

import torch
from torch import nn, optim

lr = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
torch.manual_seed(0)
x = torch.linspace(-math.pi, math.pi, 200).unsqueeze(1)
y = torch.sin(2 * x) + 0.05 * torch.randn_like(x)
model = nn.Sequential(nn.Linear(1, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 1))
criterion = nn.MSELoss()
optimizer = optim.LBFGS(model.parameters(), lr=lr, max_iter=10, line_search_fn="strong_wolfe" if lr == 1.0 else None)

for i in range(60):

    def closure():
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    if i % 10 == 0:
        print(i, loss.item())
with torch.no_grad():
    print("final", criterion(model(x), y).item())
