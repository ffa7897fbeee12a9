"""How does an engine that people already run carry frames it cannot read?"""
