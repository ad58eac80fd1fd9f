import sys

import autotrainer
import torch
import torch.nn as nn

faulty = "faulty" in sys.argv
torch.manual_seed(0)
N, T = 500, 50
signal = torch.randn(N, T, 3)
event = torch.rand(N, T) < 0.012
signal[..., 0] += 1.6 * event
signal[:, 1:, 1] -= 1.6 * event[:, :-1]
target = event.float()


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 24, batch_first=True, bidirectional=True)
        self.out = nn.Linear(48, 1)

    def forward(self, x):
        return self.out(self.lstm(x)[0]).squeeze(-1)


class Trainer:
    def __init__(self, model, criterion, lr=2e-3):
        self.model, self.criterion = model, criterion
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def run(self, epochs):
        with autotrainer.watch(self.model, self.optimizer, loss_fn=self.criterion, epochs=epochs) as monitor:
            for epoch in range(epochs):
                for rows in torch.randperm(400).split(20):
                    predictions = self.model(signal[rows])
                    loss = self.criterion(predictions, target[rows])
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                print(epoch, loss.item(), ((predictions > 0).float() == target[rows]).float().mean().item())
        return monitor


trainer = Trainer(Detector(), nn.BCEWithLogitsLoss(pos_weight=None if faulty else torch.tensor(20.0)))
monitor = trainer.run(12)
with torch.no_grad():
    found, true = trainer.model(signal[400:]) > 0, event[400:]
recall = (found & true).sum() / true.sum()
score = float((recall + (~found & ~true).sum() / (~true).sum()) / 2)
print("balanced accuracy", score)
