"""Exports a trained model to ONNX and compares the file with torch."""
