import argparse

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--epochs", type=int, default=3000)
parser.add_argument("--hidden", type=int, default=8)
args = parser.parse_args()

torch.manual_seed(3)
x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])


class XOR(torch.nn.Module):
    def __init__(self):
        super(XOR, self).__init__()
        self.fc1 = torch.nn.Linear(2, args.hidden)
        self.fc2 = torch.nn.Linear(args.hidden, 1)

    def forward(self, x):
        x = torch.tanh(self.fc1(x))
        return torch.sigmoid(self.fc2(x))


net = XOR()
mse = torch.nn.MSELoss()
opt = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=0.9)
for epoch in range(args.epochs):
    opt.zero_grad()
    loss = mse(net(x), y)
    loss.backward()
    opt.step()
    if epoch % 500 == 0:
        print(epoch, loss.item())
print(net(x).detach().round().flatten().tolist())
