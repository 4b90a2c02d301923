"""What networks cost: bits, bytes, operations, seconds."""
