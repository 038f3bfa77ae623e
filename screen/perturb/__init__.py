"""What is done to a cell: kinds of perturbation and the edits of rank lists that they are. No tensors of a model."""
