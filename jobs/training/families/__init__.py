"""Families of encoders that can be trained: what pretraining and fine-tuning need of transformers, a file a family."""
