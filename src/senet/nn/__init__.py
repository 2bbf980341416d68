"""Layers: the SE block, blocks attached to layers of other models, and layers that run fused."""
