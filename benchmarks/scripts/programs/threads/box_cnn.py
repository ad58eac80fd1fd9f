import sys

import autotrainer
import torch
import torch.nn as nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
N = 1200
images = 0.05 * torch.randn(N, 1, 20, 20)
corners = torch.randint(0, 16, (N, 2))
for image, (row, column) in zip(images, corners.tolist()):
    image[0, row : row + 4, column : column + 4] += 1
positions = (corners.float() - 7.5) / 8


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 2),
    )


def fit(model, x, y, epochs, lr, batch_size=64):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    mse = nn.MSELoss()
    with autotrainer.watch(model, optimizer, loss_fn=mse, epochs=epochs) as monitor:
        for epoch in range(epochs):
            model.train()
            for rows in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad()
                loss = mse(model(x[rows]), y[rows])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print(epoch, loss.item(), mse(model(images[1000:]), positions[1000:]).item())
    return monitor


model = make_model()
monitor = fit(model, images[:1000], positions[:1000], 12, 0.3 if faulty else 1e-3)
with torch.no_grad():
    error = ((model(images[1000:]) - positions[1000:]) ** 2).mean(0)
score = float((1 - error / positions[1000:].var(0)).mean())
print("R2", score)
