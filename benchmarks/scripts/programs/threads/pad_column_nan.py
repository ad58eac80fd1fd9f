import random
import sys

import autotrainer
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

faulty = "faulty" in sys.argv
torch.manual_seed(0)
random.seed(0)
PAD, SOS, VOCAB, MAX_LEN = 0, 1, 14, 9


def pair():
    n = random.choice([2, 3, 3, 4, 4, 4, 5, 5, 6, 8])  # nosec B311
    words = [random.randrange(2, VOCAB) for _ in range(n)]  # nosec B311
    return torch.tensor(words), torch.tensor(words[::-1])


pairs = [pair() for _ in range(1500)]


class Seq2Seq(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, hidden, padding_idx=PAD)
        self.encoder = nn.GRU(hidden, hidden, batch_first=True)
        self.decoder = nn.GRU(hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, VOCAB)

    def encode(self, source, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(source), lengths, batch_first=True, enforce_sorted=False)
        return self.encoder(packed)[1]

    def step(self, word, hidden):
        output, hidden = self.decoder(self.embedding(word), hidden)
        return torch.log_softmax(self.out(output[:, 0]), 1), hidden


def tensors(batch):
    source = pad_sequence([s for s, _ in batch], batch_first=True)
    target = torch.full((len(batch), MAX_LEN), PAD)
    for i, (_, t) in enumerate(batch):
        target[i, : len(t)] = t
    return source, torch.tensor([len(s) for s, _ in batch]), target


model = Seq2Seq()
criterion = nn.NLLLoss(ignore_index=PAD)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
with autotrainer.watch(model, optimizer, loss_fn=criterion) as monitor:
    for iteration in range(300):
        source, lengths, target = tensors(random.sample(pairs[:1200], 32))  # nosec B311
        hidden = model.encode(source, lengths)
        word = torch.full((32, 1), SOS)
        loss = 0
        for t in range(MAX_LEN):
            output, hidden = model.step(word, hidden)
            if faulty or (target[:, t] != PAD).any():
                loss = loss + criterion(output, target[:, t])
            word = target[:, t : t + 1]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimizer.step()
        if iteration % 50 == 0:
            print(iteration, float(loss) / MAX_LEN)

with torch.no_grad():
    source, lengths, target = tensors(pairs[1200:])
    hidden, word, right = model.encode(source, lengths), torch.full((300, 1), SOS), []
    for t in range(MAX_LEN):
        output, hidden = model.step(word, hidden)
        right.append((output.argmax(1) == target[:, t])[target[:, t] != PAD])
        word = target[:, t : t + 1]
score = torch.cat(right).float().mean().item()
print("tokens right", score)
