"""Batches in the plan's order: read here, or ahead by Ray Data, and handed to torch."""
