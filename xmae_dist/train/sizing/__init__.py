"""What a configuration costs, by arithmetic, before anything starts: memory, traffic, FLOPs."""
