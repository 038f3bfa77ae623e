"""A model and its vocabulary under one identity, read from checkpoints of every kind, and the genes a user names. No cells."""
