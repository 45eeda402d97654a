"""Cascades measured on images."""
