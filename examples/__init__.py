"""Federations to run and to read."""
