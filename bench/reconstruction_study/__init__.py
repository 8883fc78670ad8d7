"""The equal-budget study: `paper` against `published` and every control. `python -m bench.reconstruction_study -h`."""
