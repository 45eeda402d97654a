"""Labelled images turned into trained networks and exits."""
