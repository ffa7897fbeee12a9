"""What is allowed?"""
