"""Networks: architectures, weights, exits, preprocessing."""
