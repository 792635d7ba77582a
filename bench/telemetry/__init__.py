"""What metrics, traces and logs cost: throughput with all of them on, over that with all of them off."""
