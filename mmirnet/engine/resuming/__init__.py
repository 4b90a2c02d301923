"""What a run depends on, what changed since a checkpoint, and how it goes on."""
