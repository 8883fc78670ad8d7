"""From recordings to batches: windows, their store, one exact order, and the stream that follows it."""
