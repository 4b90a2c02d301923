"""Data samples of a batch that is one tensor of images and one of labels."""

from collections.abc import Sequence

import torch
from mmpretrain.structures import DataSample
from torch import Tensor


class LabelledSample(DataSample):
    """MMPretrain's data sample, made and labelled without checks.

    A batch makes one for each image, and the data preprocessor sets each label once
    more. The checks of ``DataSample`` would take longer than the augmentation.
    """

    def set_gt_label(self, value) -> 'LabelledSample':
        """Sets the label; a tensor of labels replaces that of before as it is."""
        old = self.__dict__.get('gt_label')
        if old is not None and isinstance(value, Tensor) and value.ndim:
            if type(old) is JoinedLabel and _same_memory(old, value):
                return self
            self.__dict__['gt_label'] = value
            return self
        return super().set_gt_label(value)


class JoinedLabel(Tensor):
    """Label of one image, as a part of the labels of its batch.

    MMPretrain's data preprocessor and its heads each join the labels of a batch with
    ``torch.cat``. On a GPU both copies of 128 labels take 3 % of a small network's
    training step. ``torch.cat`` of all parts in their order returns the labels of the
    batch without a copy. What other functions compute are ordinary tensors.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Computes a function of ordinary tensors."""
        with torch._C.DisableTorchFunctionSubclass():
            plain = len(args) == 1 and not kwargs
            if func is torch.cat and plain and not torch.compiler.is_compiling():
                joined = _joined(args[0])
                if joined is not None:
                    return joined
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: dict) -> Tensor:
        return self.clone()

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def _joined(parts: Sequence[Tensor]) -> Tensor | None:
    """Returns the tensor of parts that lie side by side, or None."""
    if not all(type(part) is JoinedLabel and part.shape == (1,) for part in parts):
        return None
    start, size = parts[0].data_ptr(), parts[0].element_size()
    storages = {part.untyped_storage().data_ptr() for part in parts}
    places = [part.data_ptr() - start for part in parts]
    if len(storages) == 1 and places == [i * size for i in range(len(parts))]:
        return parts[0].as_strided((len(parts),), (1,))
    return None


def _same_memory(first: Tensor, second: Tensor) -> bool:
    if torch.compiler.is_compiling():  # it would end the graph
        return False
    return first.data_ptr() == second.data_ptr() and first.shape == second.shape


def labelled(
    labels: Tensor, indices: Sequence[int] | None = None, *, join: bool = False
) -> list[DataSample]:
    """Returns data samples with labels.

    Args:
        labels (Tensor): (N,), int64.
        indices (Sequence[int] | None): Index of each sample in its data set, which the
            samples keep as ``sample_idx``.
        join (bool): Whether ``torch.cat`` of all labels returns the tensor given here,
            without a copy.

    Returns:
        list[DataSample]: N samples, whose labels are views of the tensor.

    Example:
        >>> import torch
        >>> [first, second] = labelled(torch.tensor([7, 3]), [0, 5])
        >>> second.gt_label, second.sample_idx
        (tensor([3]), 5)
    """
    samples = []
    parts = labels.split(1)
    if join:
        parts = [part.as_subclass(JoinedLabel) for part in parts]
    for i, label in enumerate(parts):
        sample = LabelledSample.__new__(LabelledSample)
        fields = {'_data_fields': {'gt_label'}, '_metainfo_fields': set()}
        if indices is not None:
            fields['_metainfo_fields'].add('sample_idx')
            fields['sample_idx'] = int(indices[i])
        sample.__dict__.update(fields, gt_label=label)
        samples.append(sample)
    return samples
