"""A run on disk: manifest, parts, markers, and SQL over what is committed. It computes no shift."""
