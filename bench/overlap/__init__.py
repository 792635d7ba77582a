"""Draft and target on devices of their own, replayed: what drafting ahead hides of the draft and of the wire to it."""
