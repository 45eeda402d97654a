"""Turns routings into numbers, files and pictures; every command line lives here."""
