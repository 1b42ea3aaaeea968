"""The paper's tables and figures beside ours, and the verdict on every claim, as one page."""
