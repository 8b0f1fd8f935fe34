"""What can be said of a model without training it: costs, speed, effective receptive field, kernels."""
