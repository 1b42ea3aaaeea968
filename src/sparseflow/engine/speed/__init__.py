"""Measured choices between dense and sparse on this machine, and the table of both at several batch sizes."""
