"""What frozen embeddings know, at equal budget and readout, beside controls. `python -m bench.embedding_study -h`."""
