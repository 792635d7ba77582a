"""How well a draft says what its target would, what a step of it costs, and what the pair gains."""
