"""The documents that benches write, as far as they are shown. What does not have their form is refused by name."""
