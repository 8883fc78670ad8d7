"""Window stores: how one is planned, written part by part, committed, and read."""
