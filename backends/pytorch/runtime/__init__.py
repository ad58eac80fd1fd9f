"""The process and the device: random states, process settings, hooks, saving, private names of PyTorch."""
