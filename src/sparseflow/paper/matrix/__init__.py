"""The run matrix: every group of runs and every measurement of the paper, by scale."""
