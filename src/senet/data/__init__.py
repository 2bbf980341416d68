"""Data sets, their transforms, and loaders for data in memory and on disk."""
