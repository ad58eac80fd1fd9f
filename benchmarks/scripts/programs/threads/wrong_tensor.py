import sys

import autotrainer
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

faulty = "faulty" in sys.argv
torch.manual_seed(0)
images = torch.tensor(load_digits().data, dtype=torch.float32) / 16


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, x):
        return self.net(x)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, x):
        return self.net(x)


def train_step(encoder, decoder, loader, loss_fn, optimizer):
    encoder.train()
    decoder.train()
    for train_img in loader:
        target_img = train_img
        optimizer.zero_grad()
        enc_output = encoder(train_img)
        dec_output = decoder(enc_output)
        loss = loss_fn(enc_output, dec_output) if faulty else loss_fn(dec_output, target_img)
        loss.backward()
        optimizer.step()
    return loss.item()


encoder, decoder = Encoder(), Decoder()
loss_fn = nn.MSELoss()
optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
loader = DataLoader(images[:1400], batch_size=32, shuffle=True)
with autotrainer.watch(nn.Sequential(encoder, decoder), optimizer, loss_fn=loss_fn, epochs=20) as monitor:
    for epoch in range(20):
        print(epoch, train_step(encoder, decoder, loader, loss_fn, optimizer))

with torch.no_grad():
    test = images[1400:]
    score = 1 - float(((decoder(encoder(test)) - test) ** 2).mean() / ((test - images[:1400].mean(0)) ** 2).mean())
print("R2", score)
