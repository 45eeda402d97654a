"""Topologies, costs and routes."""
