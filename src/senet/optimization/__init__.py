"""Faster networks with the same outputs: `fuse` and `unfuse` for training, `optimize_for_inference` for inference."""
