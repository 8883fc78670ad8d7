"""What a window is, which subjects go where, and how windows are cut from the recordings of a corpus."""
