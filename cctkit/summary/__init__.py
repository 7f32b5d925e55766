"""What a model is and needs: layers, parameters, multiply-adds and the memory of a training step, without running it."""
