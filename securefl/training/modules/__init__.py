"""What else than LoRA can be put on a frozen model?"""
