"""What can be said of a model without training it: its costs beside the published ones, and its latency."""
