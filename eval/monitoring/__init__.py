"""Streams of routings turned into alarms."""
