"""Windows to and from others: WebDataset shards out and in."""
