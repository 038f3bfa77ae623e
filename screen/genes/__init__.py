"""What a token is: the vocabulary of genes, their tokens, medians, symbols and aliases. No cells and no model."""
