"""Weights of the networks that offramp shows its work on, and their outputs; offramp finds them here."""
