"""Weights: formats of checkpoints, reading and writing them, fitting them to networks."""
