"""Training steps of a whole network in one compiled call."""
