"""What keeps a run alive on machines that fail: pulses of ranks, the watch in the controller, the board between."""
