"""Looking at trained networks: curves, bits and operations, diagnostics."""
