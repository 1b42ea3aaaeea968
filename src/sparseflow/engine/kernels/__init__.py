"""Kernels that read only active weights, compiled by Numba."""
