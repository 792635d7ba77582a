"""Blocks that are trees: which shape they have, and what becomes of them."""
