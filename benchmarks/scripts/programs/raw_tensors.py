# logistic regression without nn.Module
import torch
from sklearn.datasets import load_iris

torch.manual_seed(0)
x, t = load_iris(return_X_y=True)
x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
t = torch.tensor(t)
w = torch.zeros(4, 3, requires_grad=True)
b = torch.zeros(3, requires_grad=True)
optimizer = torch.optim.SGD([w, b], lr=0.1)
for epoch in range(200):
    loss = torch.nn.functional.cross_entropy(x @ w + b, t)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
