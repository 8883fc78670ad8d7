"""What a run leaves in its store: checkpoints, which of them stay, and bundles made of them."""
