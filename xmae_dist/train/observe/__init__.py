"""What is measured of a run and where it is shown: metrics, trackers, gauges, figures, the terminal."""
