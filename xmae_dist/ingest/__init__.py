"""Recordings of any device into a corpus: read, named, checked, written in parts, committed once."""
