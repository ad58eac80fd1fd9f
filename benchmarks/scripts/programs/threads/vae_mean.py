import sys

import autotrainer
import torch
from sklearn.datasets import load_digits
from torch import nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
data = torch.tensor(load_digits().data, dtype=torch.float32) / 16


class VAE(nn.Module):
    def __init__(self, z=8):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.mu, self.log_var = nn.Linear(64, z), nn.Linear(64, z)
        self.dec = nn.Sequential(nn.Linear(z, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())

    def forward(self, x):
        h = self.enc(x)
        mu, log_var = self.mu(h), self.log_var(h)
        z = mu + torch.randn_like(mu) * (log_var / 2).exp() if self.training else mu
        return self.dec(z), mu, log_var


def vae_loss(x, out, mu, log_var):
    r_loss = ((x - out) ** 2).mean() if faulty else ((x - out) ** 2).sum(1).mean()
    kl_loss = -0.5 * (1 + log_var - mu**2 - log_var.exp())
    kl_loss = kl_loss.sum(1).mean() if faulty else 0.25 * kl_loss.sum(1).mean()
    return r_loss + kl_loss, r_loss, kl_loss


vae = VAE()
optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
with autotrainer.watch(vae, optimizer, epochs=40) as monitor:
    for epoch in range(40):
        vae.train()
        for batch in data[:1400][torch.randperm(1400)].split(64):
            out, mu, log_var = vae(batch)
            loss, r, kl = vae_loss(batch, out, mu, log_var)
            optimizer.zero_grad()
            loss.backward()
            monitor.log(loss=loss, outputs=out, targets=batch)
            optimizer.step()
        print(f"{epoch} loss {loss:.4f} r {r:.4f} kl {kl:.2e}")

vae.eval()
with torch.no_grad():
    test = data[1400:]
    score = 1 - float(((vae(test)[0] - test) ** 2).mean() / ((test - data[:1400].mean(0)) ** 2).mean())
print("R2", score)
