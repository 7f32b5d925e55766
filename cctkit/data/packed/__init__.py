"""One file of decoded images: written, resumed, read."""
