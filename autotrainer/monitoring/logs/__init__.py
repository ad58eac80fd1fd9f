"""The logs of watched runs: written, read, and compared with those of other processes."""
