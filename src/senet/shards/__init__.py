"""Data sets in shards, tar files or parquet: where they are, what they hold, and a bounded cache of those far away."""
