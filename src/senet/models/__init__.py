"""The networks of the paper, by name."""
