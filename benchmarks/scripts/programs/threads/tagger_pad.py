import sys

import autotrainer
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

faulty = "faulty" in sys.argv
torch.manual_seed(0)
WORDS, TAGS, LENGTH = 200, 9, 60
tag_of_word = torch.randint(1, TAGS, (WORDS,))
lengths = torch.randint(3, 8, (1600,))
inside = torch.arange(LENGTH) < lengths[:, None]
x = torch.where(inside, torch.randint(1, WORDS, (1600, LENGTH)), 0)
y = torch.where(inside, tag_of_word[x], 0)


class LSTMTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.hidden2tag = nn.Linear(32, TAGS)

    def forward(self, sentence):
        return self.hidden2tag(self.lstm(self.embedding(sentence))[0])


model = LSTMTagger()
criterion = nn.CrossEntropyLoss() if faulty else nn.CrossEntropyLoss(ignore_index=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
loader = DataLoader(TensorDataset(x[:1280], y[:1280]), batch_size=32, shuffle=True)
with autotrainer.watch(model, optimizer, loss_fn=criterion, epochs=12) as monitor:
    for epoch in range(12):
        correct = total = 0
        for sentence, tags in loader:
            model.zero_grad()
            scores = model(sentence)
            loss = criterion(scores.view(-1, TAGS), tags.view(-1))
            loss.backward()
            optimizer.step()
            correct += (scores.argmax(-1) == tags).sum().item()
            total += tags.numel()
        print(f"epoch {epoch}: loss {loss.item():.4f} accuracy {correct / total:.4f}")

with torch.no_grad():
    predicted = model(x[1280:]).argmax(-1)
score = (predicted == y[1280:])[inside[1280:]].float().mean().item()
print("accuracy on words", score)
