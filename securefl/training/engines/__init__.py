"""How does each record get a gradient of its own?"""
