"""Certificates and their bounds."""
