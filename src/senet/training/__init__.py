"""Training: configuration, the loop, run folders."""
