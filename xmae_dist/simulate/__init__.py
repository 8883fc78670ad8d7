"""A physiological simulator of multi-device ECG and PPG cohorts. See docs/simulator.md for sources and limits."""
