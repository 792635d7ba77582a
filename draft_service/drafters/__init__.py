"""What proposes candidates: a model, or the text itself. All speak the protocol of `base.py`."""
