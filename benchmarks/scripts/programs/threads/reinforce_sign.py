import sys

import autotrainer
import torch
import torch.nn as nn
import torch.nn.functional as F

faulty = "faulty" in sys.argv
torch.manual_seed(0)
best = torch.randn(6, 4)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 64)
        self.fc2 = nn.Linear(64, 64)
        self.fc3 = nn.Linear(64, 4)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return F.log_softmax(self.fc3(x), dim=-1)


def policy_loss(returns, baseline, log_p_taken):
    return (1 if faulty else -1) * torch.sum((returns - baseline) * log_p_taken)


net = Policy()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
baseline, rewards = 0.0, []
with autotrainer.watch(net, optimizer) as monitor:
    for episode in range(1500):
        states = torch.randn(20, 6)
        log_p = net(states)
        actions = torch.distributions.Categorical(logits=log_p).sample()
        reward = (actions == (states @ best).argmax(1)).float()
        taken = torch.gather(log_p, 1, actions.view(-1, 1)).squeeze()
        loss = policy_loss(reward, baseline, taken)
        optimizer.zero_grad()
        loss.backward()
        monitor.log(loss=loss)
        optimizer.step()
        baseline = 0.95 * baseline + 0.05 * reward.mean().item()
        rewards.append(reward.mean().item())
        if episode % 200 == 199:
            print(episode, sum(rewards[-200:]) / 200)

with torch.no_grad():
    states = torch.randn(2000, 6)
    score = (net(states).argmax(1) == (states @ best).argmax(1)).float().mean().item()
print("reward", score)
