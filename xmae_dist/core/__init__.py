"""Errors, seeds, fingerprints, units, progress and tables: what every layer stands on."""
