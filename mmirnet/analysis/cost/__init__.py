"""Size, operations, time and memory of networks."""
