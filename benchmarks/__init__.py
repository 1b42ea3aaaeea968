"""The numbers in the README's benchmark table, and how they were measured: ``python -m benchmarks``."""
