"""What the gates of a network do: recorded, measured, drawn, knocked out and pruned."""
