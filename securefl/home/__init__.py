"""What does one party keep?"""
