"""cctkit: compact transformers for image classification."""

__version__ = "0.1.0"
