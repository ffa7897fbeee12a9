"""Organisations fine-tune a shared language model on text they may not share."""

__version__ = "0.1.0"
