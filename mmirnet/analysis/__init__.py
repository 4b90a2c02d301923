"""Looking at trained networks: curves, bits and operations, diagnostics."""

from .summary import Layer, Summary, summary

__all__ = ['Layer', 'Summary', 'summary']
