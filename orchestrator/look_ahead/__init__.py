"""Blocks that the draft makes while the target verifies: what is asked for, what came, what is used of it."""
