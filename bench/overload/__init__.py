"""What callers get when more is asked for than can be done, over what they get at capacity."""
