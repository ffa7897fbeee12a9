"""How is one party built from its own document, and how does it answer a request?"""
