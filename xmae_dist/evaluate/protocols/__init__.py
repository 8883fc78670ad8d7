"""How embeddings are put to a task: probes, neighbours, few labels; and what each of them is set to."""
