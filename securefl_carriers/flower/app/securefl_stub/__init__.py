"""The package that a run of Flower must have."""
