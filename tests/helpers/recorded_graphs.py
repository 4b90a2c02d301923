"""CUDA graphs on the CPU: operations are recorded once and repeated on their tensors.

As in a CUDA graph, a replay runs no Python, reads and writes the tensors of the
recording, and knows nothing of numbers that were Python's. Recording leaves all tensors
as they were.
"""

import contextlib

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _tensors(values) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Recorder(TorchDispatchMode):
    def __init__(self, on_host):
        super().__init__()
        self.calls, self.before, self.on_host = [], {}, on_host
        self.of_host = []  # alive, so that no other tensor gets their memory

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = _tensors((args, kwargs))
        waits = func is torch.ops.aten._local_scalar_dense.default
        if waits and not any(_place(t) in self.on_host for t in inputs):
            raise RuntimeError('operation not permitted when stream is capturing')
        for tensor in inputs:
            storage = tensor.untyped_storage()
            self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        places = {_place(t) for t in inputs}
        if places & self.on_host:  # and so is what is computed from them
            self.of_host.append(result)
            self.on_host |= {_place(t) for t in _tensors(result)}
        else:
            fresh = [t if _place(t) not in places else None for t in _tensors(result)]
            self.calls.append((func, args, kwargs, fresh))
        return result


class RecordedGraph:
    """What stands in for ``torch.cuda.CUDAGraph``."""

    made = []

    def __init__(self):
        self.calls, self.replays = [], 0
        RecordedGraph.made.append(self)

    def pool(self):
        return None

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for func, args, kwargs, fresh in self.calls:
            result = _tensors(func(*args, **kwargs))
            for old, new in zip(fresh, result, strict=True):
                if old is not None:
                    old.copy_(new)


def record_graphs(monkeypatch, on_host) -> list[RecordedGraph]:
    """Lets captures record. ``on_host`` finds tensors that are on the host on GPUs."""
    capturing = []

    @contextlib.contextmanager
    def graph(made, **kwargs):
        recorder = _Recorder({_place(t) for t in on_host()})
        capturing.append(made)
        try:
            with recorder:
                yield
        finally:
            capturing.pop()
            for place, (storage, content) in recorder.before.items():
                if place not in recorder.on_host:
                    storage.copy_(content)
        made.calls = recorder.calls

    RecordedGraph.made = []
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', RecordedGraph)
    monkeypatch.setattr(torch.cuda, 'graph', graph)
    monkeypatch.setattr(
        torch.cuda, 'is_current_stream_capturing', lambda: bool(capturing)
    )
    return RecordedGraph.made
