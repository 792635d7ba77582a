"""What policies of speculation cost in quality, and whether the lossless ones cost none."""
