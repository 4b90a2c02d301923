"""Data samples of a batch that is one tensor of images and one of labels."""

from collections.abc import Sequence

from mmpretrain.structures import DataSample
from torch import Tensor


class LabelledSample(DataSample):
    """MMPretrain's data sample, made and labelled without checks.

    A batch makes one for each image, and the data preprocessor sets each label once
    more. The checks of ``DataSample`` would take longer than the augmentation.
    """

    def set_gt_label(self, value) -> 'LabelledSample':
        """Sets the label; a tensor of labels replaces that of before as it is."""
        if 'gt_label' in self.__dict__ and isinstance(value, Tensor) and value.ndim:
            self.__dict__['gt_label'] = value
            return self
        return super().set_gt_label(value)


def labelled(labels: Tensor, indices: Sequence[int] | None = None) -> list[DataSample]:
    """Returns data samples with labels.

    Args:
        labels (Tensor): (N,), int64.
        indices (Sequence[int] | None): Index of each sample in its data set, which the
            samples keep as ``sample_idx``.

    Returns:
        list[DataSample]: N samples, whose labels are views of the tensor.

    Example:
        >>> import torch
        >>> [first, second] = labelled(torch.tensor([7, 3]), [0, 5])
        >>> second.gt_label, second.sample_idx
        (tensor([3]), 5)
    """
    samples = []
    for i, label in enumerate(labels.split(1)):
        sample = LabelledSample.__new__(LabelledSample)
        fields = {'_data_fields': {'gt_label'}, '_metainfo_fields': set()}
        if indices is not None:
            fields['_metainfo_fields'].add('sample_idx')
            fields['sample_idx'] = int(indices[i])
        sample.__dict__.update(fields, gt_label=label)
        samples.append(sample)
    return samples
