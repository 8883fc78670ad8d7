"""Errors, seeds, fingerprints, units and progress: what every layer stands on."""
