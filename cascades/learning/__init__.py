"""Outputs turned into fitted cascades."""
