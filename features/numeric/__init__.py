"""Numerical methods that features and policies share."""
