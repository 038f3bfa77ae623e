"""Embeddings of cells, genes and states, and attention networks: what the encoder says of cells that nobody perturbed."""
