"""The processes of a distributed training, its ranks: whether all are watched, and what they measure together."""
