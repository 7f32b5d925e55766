"""From a model and images to logits, metrics and statistics."""
