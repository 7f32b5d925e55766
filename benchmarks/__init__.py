"""Measurements of speed, memory and accuracy: each file says its command and prints its table."""
