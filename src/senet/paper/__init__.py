"""The paper: its figures, its experiments, and the comparison with them."""
