"""What a fine-tuned model learns: labels of cells and of genes, and which cells it never sees."""
