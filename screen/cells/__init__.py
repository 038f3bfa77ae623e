"""Cells as rank lists in memory and in token tables, with their obs columns. Counts become ranks in `tokenizer`, not here."""
