"""What is known of time: samples on a clock, which recordings may belong together, and how their clocks differ."""
