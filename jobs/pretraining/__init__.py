"""Masked-gene pretraining: its options and model, what is hidden, and what gene frequencies alone would give."""
