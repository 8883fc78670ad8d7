"""A physiological simulator of multi-device ECG and PPG cohorts; sources and limits in docs/simulator.md."""
