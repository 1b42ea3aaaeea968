"""The exact Hessian of a chain of layers, from sums over examples."""
