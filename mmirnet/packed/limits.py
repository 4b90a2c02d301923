"""How large a packed network may be.

Some limits come from the runtime's kernels, whose ``csrc/limits.h`` states them too: a
test compares the two. They are stated here because a packed file is checked where the
runtime was never built.
"""

# Far above any network of this project, far below what would hurt a machine.
MAX_FILE_BYTES = 1 << 30
MAX_OPERATIONS = 4096
MAX_SIDE = 4096
MAX_CHANNELS = 1 << 16
MAX_ACTIVATION_BYTES = 1 << 30
MAX_EXPONENT = 30
MAX_NUMBER = 1e30
MAX_STRIDE = 64
# The kernels on bits take windows up to this side ...
MAX_BINARY_KERNEL = 31
# ... and their 16-bit partial sums hold this many products.
MAX_BINARY_WINDOW = 65535
# The kernels on bytes sum this many products in 32 bits.
MAX_BYTE_WINDOW = 65535
# Each thread has the rows of a window as bytes, with their padding.
MAX_BAND_BYTES = 1 << 26
