"""How is the kit of an engine made, and what can it be made to do?"""
