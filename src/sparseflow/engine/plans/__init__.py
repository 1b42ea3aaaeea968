"""Training steps of a whole chain in one compiled call."""
