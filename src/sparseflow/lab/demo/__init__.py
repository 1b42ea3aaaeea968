"""The demo: its runs, its findings and its page."""
