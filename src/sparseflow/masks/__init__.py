"""Masks: which weights a layer has, how many stay, where, and the proof that they do."""
