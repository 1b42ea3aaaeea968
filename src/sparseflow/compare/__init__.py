"""Every method on one budget: a search of equal size for each, the same data in the same order, paired by seed."""
