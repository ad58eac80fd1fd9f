import sys

import autotrainer
import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

faulty = "faulty" in sys.argv
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
train_loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=100, shuffle=True)
test_loader = DataLoader(TensorDataset(x[1400:], y[1400:]), batch_size=100, shuffle=False)


class Rnn(nn.Module):
    def __init__(self, in_dim, hidden_dim, n_layer, n_class):
        super().__init__()
        self.lstm = nn.LSTM(in_dim, hidden_dim, n_layer, batch_first=not faulty)
        self.classifier = nn.Linear(hidden_dim, n_class)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.classifier(out[:, -1, :])


model = Rnn(8, 64, 2, 10)
criterion = nn.CrossEntropyLoss()
optimizer = optim.Adam(model.parameters(), lr=1e-2)

with autotrainer.watch(model, optimizer, loss_fn=criterion) as monitor:
    for epoch in range(20):
        running_acc = 0
        for img, label in train_loader:
            out = model(img)
            loss = criterion(out, label)
            running_acc += (out.argmax(1) == label).sum().item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"{epoch + 1}/20 accuracy {running_acc / 1400:.3f}")

model.eval()
correct = sum((model(img).argmax(1) == label).sum().item() for img, label in test_loader)
score = correct / 397
print("test", score)
