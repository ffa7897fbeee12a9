"""What does the one who asks do?"""
