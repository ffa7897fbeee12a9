"""The six airlines over NVIDIA FLARE."""
