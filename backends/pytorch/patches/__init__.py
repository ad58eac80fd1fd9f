"""Edits as lines of PyTorch code to paste into a training script; nothing here imports the framework."""
