"""Held-out windows, and their errors measured beside training."""
