"""Many callers at once: what each of them gets by each policy, and at which load speculation stops paying."""
