"""Work over a Ray cluster, whoever asks for it: attaching or starting one, and the same function over many things."""
