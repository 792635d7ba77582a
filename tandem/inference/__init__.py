"""Running models: loading, key-value caches, ragged batches, the engine. Knows nothing of the network."""
