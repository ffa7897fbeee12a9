"""How does NVIDIA FLARE 2.9 carry them?"""
