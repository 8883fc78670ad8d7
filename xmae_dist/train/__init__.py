"""Pretraining: engines, checkpoints, schedules, the loop, and Ray Train around them."""
