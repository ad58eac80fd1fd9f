import sys

import autotrainer
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.nn import functional

faulty = "faulty" in sys.argv
torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
flat = images.flatten(1)
mean = flat[:1400].mean(0)
_, _, v = torch.linalg.svd(flat[:1400] - mean, full_matrices=False)
fakes = (mean + (flat - mean) @ v[:12].T @ v[:12]).view_as(images)  # an autoencoder's reconstructions


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(256, 1),
        )

    def forward(self, x):
        return self.net(x)


def non_saturating_loss(logits_real, logits_fake):
    fake_target = torch.ones_like(logits_fake) if faulty else torch.zeros_like(logits_fake)
    real_loss = functional.binary_cross_entropy_with_logits(logits_real, target=torch.ones_like(logits_real))
    fake_loss = functional.binary_cross_entropy_with_logits(logits_fake, target=fake_target)
    return 0.5 * (real_loss + fake_loss)


critic = Discriminator()
optimizer = torch.optim.Adam(critic.parameters(), lr=5e-4)
with autotrainer.watch(critic, optimizer) as monitor:
    for epoch in range(15):
        for rows in torch.randperm(1400).split(32):
            loss = non_saturating_loss(critic(images[rows]), critic(fakes[rows]))
            optimizer.zero_grad()
            loss.backward()
            monitor.log(loss=loss)
            optimizer.step()
        print(epoch, loss.item())

with torch.no_grad():
    real, fake = critic(images[1400:]) > 0, critic(fakes[1400:]) <= 0
score = float(torch.cat([real, fake]).float().mean())
print("accuracy", score)
