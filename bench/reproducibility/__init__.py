"""Whether a seed gives one text: with and without speculation, whatever the block lengths and the companions."""
