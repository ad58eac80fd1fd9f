import sys

import autotrainer
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

faulty = "faulty" in sys.argv
torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1


class VectorQuantizer(nn.Module):
    def __init__(self, k=32, d=16, beta=0.25):
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(k, d)
        nn.init.uniform_(self.embedding.weight, -1 / k, 1 / k)

    def forward(self, latents):  # (n, d, h, w)
        flat = latents.permute(0, 2, 3, 1)
        nearest = torch.cdist(flat.reshape(-1, flat.size(-1)), self.embedding.weight).argmin(1)
        quantized = self.embedding(nearest).view_as(flat)
        vq_loss = self.beta * F.mse_loss(quantized.detach(), flat) + F.mse_loss(quantized, flat.detach())
        return (flat + (quantized - flat).detach()).permute(0, 3, 1, 2), vq_loss


class VQVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.LeakyReLU(), nn.Conv2d(32, 16, 1)
        )
        self.vq = VectorQuantizer()
        self.decoder = nn.Sequential(
            nn.Conv2d(16, 32, 3, 1, 1), nn.LeakyReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()
        )

    def forward(self, x):
        quantized, vq_loss = self.vq(self.encoder(x))
        return self.decoder(quantized), vq_loss

    def loss_function(self, recons, x, vq_loss):
        return F.mse_loss(recons, x) + vq_loss


model = VQVAE()
optimizer = torch.optim.Adam(model.parameters(), lr=0.1 if faulty else 0.003)
with autotrainer.watch(model, optimizer, epochs=25) as monitor:
    for epoch in range(25):
        for batch in images[:1400][torch.randperm(1400)].split(64):
            recons, vq_loss = model(batch)
            loss = model.loss_function(recons, batch, vq_loss)
            optimizer.zero_grad()
            loss.backward()
            monitor.log(loss=loss)
            optimizer.step()
        print(epoch, loss.item())

with torch.no_grad():
    test = images[1400:]
    score = 1 - float(((model(test)[0] - test) ** 2).mean() / ((test - images[:1400].mean(0)) ** 2).mean())
print("R2", score)
