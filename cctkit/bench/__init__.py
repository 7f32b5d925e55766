"""The speed and memory of training and inference on this machine."""
