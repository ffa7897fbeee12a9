"""What is one round, before it is asked?"""
