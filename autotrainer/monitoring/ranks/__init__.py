"""The ranks of a distributed training: which steps they sample together, and what differs between them."""
