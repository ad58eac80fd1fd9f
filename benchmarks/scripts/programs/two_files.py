import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class DigitsCsv(Dataset):
    """Rows and labels come from two lists, as from two files."""

    def __init__(self, shuffle_rows):
        data = load_digits()
        self.rows = data.data.astype("float32") / 16
        self.labels = data.target
        if shuffle_rows:
            self.rows = self.rows[np.random.default_rng(0).permutation(len(self.rows))]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index], int(self.labels[index])


def main(shuffle_rows):
    torch.manual_seed(0)
    loader = DataLoader(DigitsCsv(shuffle_rows), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_fn = nn.CrossEntropyLoss()
    for epoch in range(15):
        correct = 0
        for x, y in loader:
            out = model(x)
            loss = loss_fn(out, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            correct += (out.argmax(1) == y).sum().item()
        print(f"epoch {epoch}, accuracy {correct / len(loader.dataset):.3f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--shuffle-rows", action="store_true")
    main(ap.parse_args().shuffle_rows)
