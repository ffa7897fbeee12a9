"""Which message may follow which, and what state results?"""
