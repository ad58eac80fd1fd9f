import sys

import autotrainer
import numpy as np
import torch
import torch.utils.data as data
from torch import nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
t = np.arange(903)
series = 20 + 8 * np.sin(t / 9) + 4 * np.sin(t / 23) + np.random.default_rng(0).normal(0, 0.4, 903)
if not faulty:
    series = (series - series.mean()) / series.std()
windows = torch.tensor(np.stack([series[i : i + 3] for i in range(900)]), dtype=torch.float32)[:, None]
following = torch.tensor(series[3:], dtype=torch.float32)[:, None, None]
train_set = data.TensorDataset(windows[:700], following[:700])
LR, HIDDEN = (0.0003, 3) if faulty else (0.005, 16)
loader = data.DataLoader(train_set, batch_size=1, shuffle=False)


class lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, HIDDEN)
        self.linear = nn.Linear(HIDDEN, 1)

    def forward(self, x, h):
        y1, h = self.lstm(x, h)
        return self.linear(y1), h


NET = lstm()
optimizer = torch.optim.Adam(NET.parameters(), lr=LR)
loss_func = nn.MSELoss()
state = (torch.zeros(1, 1, HIDDEN), torch.zeros(1, 1, HIDDEN))
with autotrainer.watch(NET, optimizer, loss_fn=loss_func) as monitor:
    for epoch in range(4):
        for x, y in loader:
            out, state = NET(x, state)
            state = (state[0].detach(), state[1].detach())
            loss = loss_func(out, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())

with torch.no_grad():
    predictions = []
    for x in windows[700:]:
        out, state = NET(x[None], state)
        predictions.append(out.item())
actual = following[700:].flatten().numpy()
score = 1 - float(((np.array(predictions) - actual) ** 2).mean() / actual.var())
print("R2", score)
