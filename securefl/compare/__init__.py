"""What does privacy cost in utility?"""
