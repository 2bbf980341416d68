"""Export of networks to other runtimes, and the proof that nothing changed."""
