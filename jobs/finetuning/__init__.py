"""Fine-tuning: a pretrained encoder learns labels of cells or genes, is judged on what it never saw, and stays a bundle."""
