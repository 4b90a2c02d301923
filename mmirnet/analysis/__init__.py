"""Looking at trained networks: curves, bits and operations, diagnostics."""

from .cost.count import Layer, Summary, summary

__all__ = ['Layer', 'Summary', 'summary']
