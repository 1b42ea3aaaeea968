"""A battery of trials: which optimizers of which libraries keep a sparse network sparse; ``python -m battery``."""
