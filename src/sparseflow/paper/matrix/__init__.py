"""Complete experiments: each returns the runs it needs, and the command line only names it."""
