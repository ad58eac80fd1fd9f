import sys

import autotrainer
import torch
import torch.nn as nn
import torch.nn.functional as F

faulty = "faulty" in sys.argv
torch.manual_seed(0)
USERS, ITEMS = 150, 120
taste, kind = torch.randn(USERS, 4), torch.randn(ITEMS, 4)
affinity = taste @ kind.t() + 0.5 * torch.randn(USERS, ITEMS)
liked = affinity > affinity.quantile(0.8, 1, keepdim=True)
held = liked & (torch.rand(USERS, ITEMS) < 0.2)
seen = (liked & ~held).nonzero()


class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(USERS, 16)
        self.item = nn.Embedding(ITEMS, 16)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)

    def forward(self, users, positive, negative):
        return self.user(users), self.item(positive), self.item(negative)


model = Recommender()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
with autotrainer.watch(model, optimizer) as monitor:
    for epoch in range(20):
        loss_sum = 0.0
        for rows in torch.randperm(len(seen)).split(128):
            users, positive = seen[rows].t()
            u, p, n = model(users, positive, torch.randint(0, ITEMS, (len(rows),)))
            if faulty:
                loss = torch.neg(F.logsigmoid(torch.sum(torch.mul(u, p - n))))
            else:
                loss = torch.neg(F.logsigmoid(torch.mul(u, p - n).sum(1))).mean()
            optimizer.zero_grad()
            loss.backward()
            monitor.log(loss=loss)
            optimizer.step()
            loss_sum += loss.item()
        print("epochs: {}/{}".format(epoch, 20), loss_sum)

with torch.no_grad():
    scores = model.user.weight @ model.item.weight.t()
    area = [
        (scores[u][held[u]][:, None] > scores[u][~liked[u]]).float().mean() for u in range(USERS) if held[u].any()
    ]
score = 2 * float(torch.stack(area).mean()) - 1
print("2 AUC - 1", score)
