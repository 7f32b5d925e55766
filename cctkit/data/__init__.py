"""The data: sources, the packed file, the plan of an epoch, augmentation, the loader."""
