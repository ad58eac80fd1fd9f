import sys

import autotrainer
import torch
from torch import nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)


class MyModel(nn.Module):
    def __init__(self, seq_len):
        super().__init__()
        width = 1 if faulty else 16
        self.embed = nn.Identity() if faulty else nn.Linear(1, width)
        layer = nn.TransformerEncoderLayer(width, 1, 32, dropout=0.0)
        self.trans = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.lin = nn.Linear(seq_len * width, 1)

    def forward(self, x):  # (sequence, batch, 1)
        y = self.trans(self.embed(x))
        return self.lin(y.transpose(0, 1).flatten(1))


SCALE = 1.0 if faulty else 100.0
model = MyModel(20)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def batch(n=16):
    first = torch.randint(0, 100, (n,))
    numbers = (first + torch.arange(21)[:, None]).float() / SCALE
    return numbers[:20, :, None], numbers[20:].T


running_loss = 0.0
with autotrainer.watch(model, optimizer) as monitor:
    for epoch in range(1500):
        inputs, labels = batch()
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = torch.norm(outputs - labels)
        loss.backward()
        monitor.log(loss=loss)
        optimizer.step()
        running_loss += loss.item()
        if epoch % 100 == 99:
            print(f"[{epoch + 1}] loss: {running_loss / 100:.3f}")
            running_loss = 0.0

with torch.no_grad():
    inputs, labels = batch(400)
    score = 1 - float(((model(inputs) - labels) ** 2).mean() / labels.var())
print("R2", score)
