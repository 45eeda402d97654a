"""Stages, a topology and rules, turned into a routing."""
