"""How does Flower 1.42 carry them?"""
