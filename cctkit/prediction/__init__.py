"""What is done with a trained model: images in, classes out."""
