import sys

import autotrainer
import torch
import torch.nn as nn
import torch.nn.functional as F

faulty = "faulty" in sys.argv
torch.manual_seed(0)
VOCAB = 20
table = torch.stack([torch.randperm(VOCAB) for _ in range(3)], 1)


def sentences(n, length=24):
    out = torch.randint(0, VOCAB, (n, 1))
    for _ in range(length - 1):
        choice = torch.multinomial(torch.tensor([0.8, 0.15, 0.05]), n, replacement=True)
        out = torch.cat([out, table[out[:, -1], choice][:, None]], 1)
    return out


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, 32)
        self.rnn = nn.GRU(32, 64, batch_first=True)
        self.lm_head = nn.Linear(64, VOCAB)

    def forward(self, ids):
        return self.lm_head(self.rnn(self.emb(ids))[0])


def fwd_train_loss(model, src):
    dst, labels = (src, src) if faulty else (src[:, :-1], src[:, 1:])
    return F.cross_entropy(model(dst).reshape(-1, VOCAB), labels.reshape(-1))


data, test = sentences(2000), sentences(400)
model = Decoder()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
with autotrainer.watch(model, optimizer) as monitor:
    for epoch in range(8):
        for batch in data[torch.randperm(2000)].split(50):
            optimizer.zero_grad()
            loss = fwd_train_loss(model, batch)
            loss.backward()
            monitor.log(loss=loss)
            optimizer.step()
        print("loss", loss.item())

with torch.no_grad():
    score = (model(test[:, :-1]).argmax(-1) == test[:, 1:]).float().mean().item()
print("next token", score)
