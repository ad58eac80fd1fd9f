import sys

import autotrainer
import torch
import torch.nn as nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
words = torch.randint(2, 60, (2400, 15))
topic = torch.randint(0, 4, (2400,))
keep = torch.rand(2400, 15) < 0.35
words = torch.where(keep, 2 + 14 * topic[:, None] + torch.randint(0, 14, (2400, 15)), words)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(60, 32)
        self.gru = nn.GRU(32, 32, bidirectional=True, batch_first=True)

    def forward(self, text):
        _, hidden = self.gru(self.embedding(text))  # (2, batch, 32)
        if faulty:
            return hidden.view(text.size(0), -1)
        return hidden.transpose(0, 1).reshape(text.size(0), -1)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.out = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, text):
        return self.out(self.encoder(text))


model = Classifier()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
with autotrainer.watch(model, optimizer, loss_fn=criterion, epochs=12) as monitor:
    for epoch in range(12):
        model.train()
        for rows in torch.randperm(2000).split(40):
            optimizer.zero_grad()
            loss = criterion(model(words[rows]), topic[rows])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = model(words[2000:])
            val_loss, val_acc = criterion(logits, topic[2000:]).item(), (logits.argmax(1) == topic[2000:]).float().mean().item()
        print(epoch, loss.item(), val_loss, val_acc)
score = val_acc
