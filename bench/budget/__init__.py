"""Many callers at a target that verifies so many candidates in a step: the best ones of all, or equal shares."""
