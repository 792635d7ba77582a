"""Generated from `protos/tandem/v1` by `make protos`: not to be edited."""
