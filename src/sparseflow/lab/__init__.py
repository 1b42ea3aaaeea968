"""Pages about runs: exhibits with their figures and tables, and the demo (extra ``[lab]``)."""
