"""What the classes that train share: their arguments in our words, classes and cuts of cells, a model learnt and judged."""
