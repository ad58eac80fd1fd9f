import argparse

import torch
import torch.nn as nn
import torch.optim as optim

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--epochs", type=int, default=8)
args = parser.parse_args()
torch.manual_seed(1)
VOCAB, TAGS, PAD = 40, 4, -100


class LSTMTagger(nn.Module):
    def __init__(self, embedding_dim, hidden_dim, vocab_size, tagset_size):
        super(LSTMTagger, self).__init__()
        self.word_embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True)
        self.hidden2tag = nn.Linear(hidden_dim, tagset_size)

    def forward(self, sentence):
        out, _ = self.lstm(self.word_embeddings(sentence))
        return self.hidden2tag(out)


def sentences(n):
    words = torch.randint(1, VOCAB, (n, 12))
    tags = (words % 2) + 2 * (torch.roll(words, 1, 1) > VOCAB // 2).long()
    tags[:, 0] = words[:, 0] % 2
    lengths = torch.randint(5, 13, (n, 1))
    mask = torch.arange(12) >= lengths
    return words.masked_fill(mask, 0), tags.masked_fill(mask, PAD)


train_words, train_tags = sentences(1200)
test_words, test_tags = sentences(300)
model = LSTMTagger(16, 32, VOCAB, TAGS)
loss_function = nn.CrossEntropyLoss(ignore_index=PAD)
optimizer = optim.Adam(model.parameters(), lr=args.lr)
for epoch in range(args.epochs):
    for start in range(0, len(train_words), 40):
        model.zero_grad()
        tag_scores = model(train_words[start : start + 40])
        loss = loss_function(tag_scores.transpose(1, 2), train_tags[start : start + 40])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        hit = model(test_words).argmax(-1) == test_tags
        print(epoch, loss.item(), hit[test_tags != PAD].float().mean().item())
