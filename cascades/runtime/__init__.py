"""Fitted cascades turned into live decisions."""
