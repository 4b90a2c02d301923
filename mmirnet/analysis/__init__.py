"""Analysis of networks and runs: size and operations, plots, reports."""

from .cost.count import Layer, Summary, summary

__all__ = ['Layer', 'Summary', 'summary']
