import sys

import autotrainer
import torch
import torch.nn as nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
VOCAB, T = 16, 16
table = torch.stack([torch.randperm(VOCAB) for _ in range(2)], 1)


def sequences(n):
    out = torch.randint(0, VOCAB, (n, 1))
    for _ in range(T):
        choice = torch.multinomial(torch.tensor([0.85, 0.15]), n, replacement=True)
        out = torch.cat([out, table[out[:, -1], choice][:, None]], 1)
    return out


class MiniGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, 32)
        self.pos = nn.Embedding(T, 32)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(32, VOCAB)

    def forward(self, idx):
        t = idx.size(1)
        x = self.tok(idx) + self.pos(torch.arange(t))
        mask = None if faulty else torch.triu(torch.full((t, t), float("-inf")), 1)
        for block in self.blocks:
            x = block(x, src_mask=mask)
        return self.head(x)


train, val = sequences(3000), sequences(300)
model = MiniGPT()
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
STEPS = 500
with autotrainer.watch(model, optimizer, loss_fn=loss_fn, steps=STEPS) as monitor:
    for step in range(STEPS):
        batch = train[torch.randint(0, 3000, (32,))]
        logits = model(batch[:, :-1])
        loss = loss_fn(logits.reshape(-1, VOCAB), batch[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            model.eval()
            with torch.no_grad():
                print(step, loss.item(), loss_fn(model(val[:, :-1]).reshape(-1, VOCAB), val[:, 1:].reshape(-1)).item())
            model.train()

model.eval()
with torch.no_grad():  # as in generation: the future does not exist yet
    right = [(model(val[:, :t])[:, -1].argmax(1) == val[:, t]).float().mean().item() for t in range(1, T)]
score = sum(right) / len(right)
print("next token", score)
