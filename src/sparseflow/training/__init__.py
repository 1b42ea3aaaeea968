"""Training runs: their configs, their loop, what they measure and store, and many of them over processes."""
