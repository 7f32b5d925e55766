"""One epoch: its plan, augmentation and batches."""
