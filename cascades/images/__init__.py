"""Labelled images from files of many formats."""
