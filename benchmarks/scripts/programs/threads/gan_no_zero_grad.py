import sys

import autotrainer
import torch
import torch.nn as nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)


class GAN:
    def __init__(self):
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        self.discriminator = nn.Sequential(
            nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )
        self.criterion = nn.BCEWithLogitsLoss()
        self.opt_g = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        self.opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))

    def step(self, real):
        n = len(real)
        if not faulty:
            self.discriminator.zero_grad()
        err_real = self.criterion(self.discriminator(real), torch.ones(n, 1))
        err_real.backward()
        fake = self.generator(torch.randn(n, 8))
        err_fake = self.criterion(self.discriminator(fake.detach()), torch.zeros(n, 1))
        err_fake.backward()
        self.opt_d.step()
        self.generator.zero_grad()
        err_g = self.criterion(self.discriminator(fake), torch.ones(n, 1))
        err_g.backward()
        self.opt_g.step()
        return err_real.item() + err_fake.item(), err_g.item()


def ring(n):
    angle = torch.rand(n) * 2 * torch.pi
    return torch.stack([angle.cos(), angle.sin()], 1) * (2 + 0.1 * torch.randn(n, 1))


gan = GAN()
with autotrainer.watch(gan.discriminator, gan.opt_d, loss_fn=gan.criterion) as monitor:
    for iteration in range(2500):
        d, g = gan.step(ring(128))
        if iteration % 250 == 0:
            print(iteration, d, g)

with torch.no_grad():
    samples = gan.generator(torch.randn(2000, 8))
radius, angle = samples.norm(dim=1), torch.atan2(samples[:, 1], samples[:, 0])
near = ((radius - 2).abs() < 0.5).float()
share = torch.stack([(near * (((angle + torch.pi) / 0.7854).long() == i)).mean() for i in range(8)])
score = float(torch.minimum(share, torch.tensor(0.125)).sum())
print("ring covered", score)
