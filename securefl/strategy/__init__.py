"""What becomes of the sum?"""
