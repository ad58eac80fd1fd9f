import sys

import autotrainer
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

faulty = "faulty" in sys.argv
torch.manual_seed(0)


class Blobs(Dataset):
    def __init__(self, n, seed):
        draw = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(np.arange(16), np.arange(16)))
        centres, radii = draw.uniform(3, 13, (n, 2, 1, 1)), draw.uniform(2, 5, (n, 1, 1))
        self.masks = (((grid - centres) ** 2).sum(1) < radii**2).astype(np.uint8) * 255
        self.images = (120 + 60 * (self.masks > 0) + draw.normal(0, 40, (n, 16, 16))).clip(0, 255).astype(np.uint8)

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, i):
        image = torch.tensor(self.images[i], dtype=torch.float32)[None] / 255
        mask = torch.tensor(self.masks[i], dtype=torch.float32)[None]
        return image, mask if faulty else mask / 255


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU())
        self.down2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.last = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 1))

    def forward(self, x):
        a = self.down1(x)
        return self.last(torch.cat([a, self.up(self.down2(a))], 1))


train, test = DataLoader(Blobs(400, 0), batch_size=16, shuffle=True), DataLoader(Blobs(100, 1), batch_size=50)
unet = UNet()
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(unet.parameters(), lr=2e-3)
with autotrainer.watch(unet, optimizer, loss_fn=criterion, epochs=10) as monitor:
    for epoch in range(10):
        for image, mask in train:
            loss = criterion(unet(image), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("epoch", epoch, "loss", loss.item())

both = either = 0
with torch.no_grad():
    for image, mask in test:
        predicted, true = unet(image) > 0, mask > 0
        both, either = both + (predicted & true).sum().item(), either + (predicted | true).sum().item()
score = both / either
print("IoU", score)
