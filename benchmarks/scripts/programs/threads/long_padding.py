import sys

import autotrainer
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

faulty = "faulty" in sys.argv
torch.manual_seed(0)


def review():
    label = int(torch.randint(0, 2, (1,)))
    n = int(torch.randint(6, 18, (1,)))
    tokens = torch.randint(1, 80, (n,))
    marked = torch.rand(n) < 0.4
    return torch.where(marked, torch.randint(1, 21, (n,)) + 20 * label, tokens), label


reviews = [review() for _ in range(1500)]


def collate(batch, length=150):
    texts = [t for t, _ in batch]
    padded = pad_sequence([*texts, torch.zeros(length, dtype=torch.long)], batch_first=True)[:-1]
    return padded, torch.tensor([len(t) for t in texts]), torch.tensor([float(y) for _, y in batch])


class SentimentLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(80, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.fc = nn.Linear(32, 1)

    def forward(self, text, lengths):
        e = self.embed(text)
        if not faulty:
            e = pack_padded_sequence(e, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(e)
        return self.fc(h[-1]).squeeze(1)


train = DataLoader(reviews[:1200], batch_size=32, shuffle=True, collate_fn=collate)
valid = DataLoader(reviews[1200:], batch_size=100, collate_fn=collate)
model = SentimentLSTM()
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
with autotrainer.watch(model, optimizer, loss_fn=criterion) as monitor:
    for epoch in range(6):
        model.train()
        for text, lengths, labels in train:
            optimizer.zero_grad()
            loss = criterion(model(text, lengths), labels)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum(((model(t, n) > 0).float() == y).sum().item() for t, n, y in valid)
        print(f"epoch {epoch}: loss {loss.item():.4f} val acc {right / 300:.3f}")
score = right / 300
