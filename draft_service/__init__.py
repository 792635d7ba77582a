"""The draft service: proposes candidates."""
