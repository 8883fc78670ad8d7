"""Public data sets as people download them, each with what its own folder needs."""
