"""Who says what, when?"""
