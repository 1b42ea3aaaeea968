"""Measured choices: which layers are faster sparse on this machine."""
