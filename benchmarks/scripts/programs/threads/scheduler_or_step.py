import sys

import autotrainer
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

faulty = "faulty" in sys.argv
torch.manual_seed(1)
images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
small = nn.functional.avg_pool2d(images, 2)
loader = DataLoader(TensorDataset(small[:1400], images[:1400]), batch_size=32, shuffle=True)
net = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 3, padding=1), nn.PixelShuffle(2)
)
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=400, gamma=0.5)

with autotrainer.watch(net, optimizer, loss_fn=criterion) as monitor:
    for epoch in range(20):
        total = 0.0
        for lr_img, hr_img in loader:
            optimizer.zero_grad()
            loss = criterion(net(lr_img), hr_img)
            loss.backward()
            if scheduler:
                scheduler.step()
                if not faulty:
                    optimizer.step()
            else:
                optimizer.step()
            total += loss.item()
        print(epoch, total / len(loader))

with torch.no_grad():
    test = images[1400:]
    score = 1 - float(((net(small[1400:]) - test) ** 2).mean() / ((test - images[:1400].mean(0)) ** 2).mean())
print("R2", score)
