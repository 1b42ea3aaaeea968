"""Masks: the weights that may have one, how many stay active, and where."""
