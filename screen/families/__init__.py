"""Families of encoders: everything that knows which architecture a model has. Tensors and configurations, no files."""
