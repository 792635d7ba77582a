"""Policies of speculation side by side, one caller at a time: the tables of the papers."""
