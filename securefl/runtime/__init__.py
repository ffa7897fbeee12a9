"""How do messages travel?"""
