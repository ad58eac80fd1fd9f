import sys

import autotrainer
import torch
from torch import nn
from torch.nn import functional as F

faulty = "faulty" in sys.argv
torch.manual_seed(0)
words = ["time", "traveller", "for", "so", "it", "will", "be", "convenient", "to", "speak", "of", "him", "was"]
picks = torch.randint(0, len(words), (3000,)).tolist()
text = " ".join(words[i] for i in picks)
vocab = sorted(set(text))
corpus = torch.tensor([vocab.index(c) for c in text])
train_corpus, test_corpus = corpus[:-2000], corpus[-2000:]
T, B = 24, 32


class RNNModelScratch:
    def __init__(self, size, hidden):
        self.size, self.hidden = size, hidden
        self.cell = nn.RNN(size, hidden)
        self.out = nn.Linear(hidden, size)
        self.module = nn.ModuleList([self.cell, self.out])

    def __call__(self, X):  # (batch, time)
        X = F.one_hot(X.T, self.size).float()
        return self.out(self.cell(X)[0].reshape(-1, self.hidden))


def batches(corpus):
    for _ in range(40):
        starts = torch.randint(0, len(corpus) - T - 1, (B,))
        yield torch.stack([corpus[s : s + T] for s in starts]), torch.stack([corpus[s + 1 : s + T + 1] for s in starts])


net = RNNModelScratch(len(vocab), 64)
loss = nn.CrossEntropyLoss()
updater = torch.optim.Adam(net.module.parameters(), lr=3e-3)
with autotrainer.watch(net.module, updater, loss_fn=loss) as monitor:
    for epoch in range(15):
        total = 0.0
        for X, Y in batches(train_corpus):
            y = Y.reshape(-1) if faulty else Y.T.reshape(-1)
            updater.zero_grad()
            l = loss(net(X), y)
            l.backward()
            nn.utils.clip_grad_norm_(net.module.parameters(), 1)
            updater.step()
            total += l.item()
        print(epoch, "perplexity", torch.tensor(total / 40).exp().item())

with torch.no_grad():
    X, Y = next(batches(test_corpus))
    score = (net(X).argmax(1) == Y.T.reshape(-1)).float().mean().item()
print("next character", score)
