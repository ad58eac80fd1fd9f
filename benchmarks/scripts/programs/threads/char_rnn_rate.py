import sys

import autotrainer
import torch
from torch import nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
verse = (
    "shall i compare thee to a summers day\nthou art more lovely and more temperate\n"
    "rough winds do shake the darling buds of may\nand summers lease hath all too short a date\n"
)
letters = sorted(set(verse))
ids = torch.tensor([letters.index(c) for c in verse * 12])
length = 40


class RNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(len(letters), 64)
        self.linear = nn.Linear(64, len(letters))

    def forward(self, x, state=None):
        out, state = self.rnn(x, state)
        return self.linear(out), state


rnn = RNN()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(rnn.parameters(), lr=0.3 if faulty else 0.005)
with autotrainer.watch(rnn, optimizer, loss_fn=criterion) as monitor:
    for epoch in range(8):
        state = None
        for start in range(0, len(ids) - length - 1, length):
            x = nn.functional.one_hot(ids[start : start + length], len(letters)).float()[:, None]
            y = ids[start + 1 : start + length + 1]
            optimizer.zero_grad()
            out, state = rnn(x, state)
            state = tuple(s.detach() for s in state)
            loss = criterion(out[:, 0], y)
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())

with torch.no_grad():
    test = torch.tensor([letters.index(c) for c in verse])
    out, _ = rnn(nn.functional.one_hot(test[:-1], len(letters)).float()[:, None])
score = (out[:, 0].argmax(1) == test[1:]).float().mean().item()
print("next letter", score)
