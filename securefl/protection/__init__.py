"""How is an update hidden?"""
