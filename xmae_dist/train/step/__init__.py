"""What one step is made of: its batch and masks, its place in the schedules, its collectives, its clock."""
