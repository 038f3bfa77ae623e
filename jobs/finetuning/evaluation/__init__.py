"""What a fine-tuned model is worth: predictions on cells it never saw, their scores, and baselines beside them."""
