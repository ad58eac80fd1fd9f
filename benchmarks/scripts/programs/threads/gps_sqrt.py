import sys

import autotrainer
import torch
from torch import nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
steps = torch.randn(1500, 10, 2) * 0.3
moved = steps.sum(1)
moved[torch.rand(1500) < 0.2] = 0.0  # parked
moved = moved.clamp(min=0)
features = torch.cat([steps.flatten(1), (moved.abs().sum(1, keepdim=True) > 0).float()], 1)


def gps_distance(output, target):
    lx, ly = (output - target).unbind(1)
    squares = lx**2 + ly**2
    return torch.sqrt(squares if faulty else squares + 1e-10).mean()


class Displacement(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(21, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x):
        return torch.nn.functional.softplus(self.layers(x) * 20) / 20 * x[:, -1:]


model = Displacement()
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
with autotrainer.watch(model, optimizer, epochs=20) as monitor:
    for epoch in range(20):
        for rows in torch.randperm(1200).split(50):
            optimizer.zero_grad()
            loss = gps_distance(model(features[rows]), moved[rows])
            loss.backward()
            monitor.log(loss=loss)
            optimizer.step()
        print(epoch, loss.item())

with torch.no_grad():
    error = ((model(features[1200:]) - moved[1200:]) ** 2).mean()
score = float(1 - error / moved[1200:].var())
score = score if score == score else -1.0
print("R2", score)
