"""Errors, seeds, fingerprints, units and events: what every layer stands on."""
