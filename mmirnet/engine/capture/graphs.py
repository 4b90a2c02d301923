"""Capture of CUDA graphs, with errors that say what to leave out."""

import contextlib
from collections.abc import Iterator

import torch

from ...errors import ConfigError, first_line


@contextlib.contextmanager
def capturing(
    graph: torch.cuda.CUDAGraph, what: str, way_out: str, **options
) -> Iterator[None]:
    """Records the operations inside as a CUDA graph, which only replays run.

    Args:
        graph (torch.cuda.CUDAGraph): The graph.
        what (str): What is recorded, for the error.
        way_out (str): What to do instead, for the error.
        **options: Arguments of ``torch.cuda.graph``: pool and stream.

    Raises:
        ConfigError: If an operation cannot be captured.
    """
    try:
        # Threads of data loaders may go on meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local', **options):
            yield
    except RuntimeError as error:
        # Ending the capture fails, too, and says less.
        reason = first_line(error.__context__ or error)
        raise ConfigError(
            f'{what} cannot be captured as a CUDA graph ({reason}): leave out what '
            f'waits for the device, {way_out}'
        ) from error
