"""What does a member learn?"""
