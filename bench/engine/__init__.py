"""What the engine costs and holds, against plain transformers on the same weights: `python -m bench engine`."""
