import sys

import autotrainer
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

faulty = "faulty" in sys.argv
torch.manual_seed(0)
CLASSES = 200
centres = torch.randn(CLASSES, 40)
labels = torch.randint(0, CLASSES, (6000,))
x = centres[labels] + 1.2 * torch.randn(6000, 40)


class CosineClassifier(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 64))
        self.weight = nn.Parameter(torch.randn(CLASSES, 64) * 0.1)
        self.scale = scale

    def forward(self, x):
        return self.scale * F.normalize(self.body(x)) @ F.normalize(self.weight).t()


model = CosineClassifier(scale=1.0 if faulty else 16.0)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
loader = DataLoader(TensorDataset(x[:5000], labels[:5000]), batch_size=64, shuffle=True)
with autotrainer.watch(model, optimizer, loss_fn=criterion, epochs=15) as monitor:
    for epoch in range(15):
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(x[5000:]).argmax(1) == labels[5000:]).float().mean().item()
        print(f"epoch {epoch} loss {loss.item():.3f} accuracy {accuracy:.3f}")
        monitor.end_epoch(val_accuracy=accuracy)
score = accuracy
