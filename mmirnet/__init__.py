"""IR-Net binary neural networks as an MMPretrain plugin."""

__version__ = '0.1.0'
