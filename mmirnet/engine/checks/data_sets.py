"""Checks of data sets and their loaders."""

import pickle
from collections.abc import Iterator, Sequence

import torch
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.evaluator import Evaluator
from mmpretrain.datasets import MultiTaskDataset
from mmpretrain.evaluation import (
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    MultiLabelMetric,
    SingleLabelMetric,
)
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead, MultiTaskHead
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ...errors import ConfigError, DataError
from ..config_checks.folders import folder_problems
from ..facts import dataset_classes
from ..labels import label_problems


def size_problems(key: str, loader: DataLoader) -> Iterator[Exception]:
    """Finds loaders without images or batches, and those that leave images out."""
    images = len(loader.dataset)
    if images == 0:
        yield DataError(f'{key}.dataset is empty')
    elif len(loader) == 0:
        yield DataError(
            f'{key} gives no batch: {len(loader.sampler)} images per process are less '
            f'than batch_size={loader.batch_size}, and drop_last is True; lower '
            f'{key}.batch_size'
        )
    elif loader.drop_last and not key.startswith('train'):
        lost = len(loader.sampler) % (loader.batch_size or 1)
        if lost:
            yield UserWarning(
                f'{key}.drop_last=True leaves {lost} images out of the result'
            )


def dataset_problems(
    key: str, dataset: Dataset, model: nn.Module, outputs: int | None
) -> Iterator[Exception]:
    """Finds classes, folders and labels that do not match the network.

    Args:
        key (str): Key of the data set in the config.
        dataset (Dataset): The data set.
        model (nn.Module): The model.
        outputs (int | None): Its number of classes, if known.

    Yields:
        Exception: One per problem.
    """
    classes = dataset_classes(dataset)
    if outputs and classes and len(classes) != outputs:
        line = (
            f'{key} has {len(classes)} classes, but model.head.num_classes is {outputs}'
        )
        fits = len(classes) < outputs
        yield UserWarning(line) if fits else ConfigError(line)
        if not fits:
            return
    folders = getattr(dataset, 'folder_to_idx', None)
    if folders and getattr(dataset, 'with_label', True):
        # With folders, labels are always in range and named by the folders.
        yield from folder_problems(key, dataset.img_prefix, sorted(folders), classes)
        return
    head = getattr(model, 'head', None)
    several = None
    if isinstance(head, (ClsHead, MultiLabelClsHead)):
        several = isinstance(head, MultiLabelClsHead)
    if (samples := known_samples(dataset)) is not None:
        where = getattr(dataset, 'ann_file', '')
        name = f'{key} ({where})' if where else key
        if isinstance(head, MultiTaskHead):
            yield from _task_problems(name, samples, head)
        else:
            yield from label_problems(name, samples, outputs, several)


def _task_problems(
    name: str, samples: list[dict], head: MultiTaskHead
) -> Iterator[Exception]:
    """Checks each task separately; a sample may lack the labels of some tasks."""
    for task, part in head.task_heads.items():
        labelled = [
            dict(sample, gt_label=sample['gt_label'][task])
            for sample in samples
            if isinstance(sample['gt_label'], dict) and task in sample['gt_label']
        ]
        place = f'{name}, task {task}'
        if not labelled:
            yield DataError(f'{place}: no sample has a label')
        elif isinstance(part, MultiTaskHead):
            yield from _task_problems(place, labelled, part)
        else:
            outputs = getattr(part, 'num_classes', None)
            several = isinstance(part, MultiLabelClsHead)
            yield from label_problems(place, labelled, outputs, several)


def known_samples(dataset: Dataset) -> list[dict] | None:
    """Returns the samples of a data set without reading their images.

    Args:
        dataset (Dataset): The data set.

    Returns:
        list[dict] | None: ``gt_label`` and ``img_path``, if available. None if the data
        set has no such information.

    Example:
        >>> from mmirnet.datasets import Digits
        >>> known_samples(Digits(split='test'))[0]
        {'gt_label': 7}
    """
    if isinstance(labels := getattr(dataset, 'labels', None), torch.Tensor):
        return [dict(gt_label=label) for label in labels.tolist()]
    if isinstance(dataset, MultiTaskDataset):
        infos = dataset.data_list
    elif isinstance(dataset, BaseDataset) and len(dataset):
        if 'gt_label' not in dataset.get_data_info(0):  # none, or boxes, captions, ...
            return None
        infos = _infos(dataset)
    else:
        return None
    return [
        {key: info[key] for key in ('gt_label', 'img_path') if key in info}
        for info in infos
    ]


def _infos(dataset: BaseDataset) -> Iterator[dict]:
    if type(dataset).get_data_info is not BaseDataset.get_data_info or not (
        dataset.serialize_data and len(dataset)
    ):
        yield from (dataset.get_data_info(i) for i in range(len(dataset)))
        return
    # A faster version of the same: a million samples take seconds.
    data, start = memoryview(dataset.data_bytes), 0
    for end in dataset.data_address.tolist():
        yield pickle.loads(data[start:end])
        start = end


def unlabelled_problems(
    key: str,
    labels: set[str] | None,
    model: nn.Module,
    evaluators: dict[str, Evaluator],
) -> Iterator[Exception]:
    """Finds images without the labels that training or the metrics need."""
    if labels is None:
        return
    if key == 'train_dataloader':
        head = getattr(model, 'head', None)
        taught = getattr(model, 'teacher', None) is not None and not model.label_weight
        if isinstance(head, (ClsHead, MultiLabelClsHead)) and not (labels or taught):
            yield DataError(
                f'{key}.dataset has no labels, which {type(head).__name__} learns from'
            )
        return
    evaluator = key.replace('dataloader', 'evaluator')
    for metric in getattr(evaluators.get(evaluator), 'metrics', []):
        single = isinstance(metric, (Accuracy, SingleLabelMetric, ConfusionMatrix))
        several = isinstance(metric, (MultiLabelMetric, AveragePrecision))
        if (single and 'gt_label' not in labels) or (several and not labels):
            without = '--no-validate leaves it out'
            if key == 'test_dataloader':
                without = 'for predictions alone set test_evaluator=[]'
            yield DataError(
                f'{key}.dataset has no labels, which {type(metric).__name__} compares '
                f'with; {without}'
            )


def order_problems(dataset: Dataset, trained_on: Sequence[str]) -> Iterator[Exception]:
    """Warns of fine-tuning on the same classes in another order."""
    classes = dataset_classes(dataset)
    if classes and set(classes) == set(trained_on) and classes != list(trained_on):
        yield UserWarning(
            'train_dataloader.dataset has the classes of the checkpoint in another '
            'order: the weights of its head do not fit'
        )


def batch_problems(loader: DataLoader, single: list[str]) -> Iterator[Exception]:
    """Finds batches of one image that a norm cannot take, and missing shuffling.

    Args:
        loader (DataLoader): The training loader.
        single (list[str]): Names of norms over the images of a batch alone.

    Yields:
        Exception: One per problem.
    """
    key, size = 'train_dataloader', loader.batch_size
    shuffle = getattr(loader.sampler, 'shuffle', None)
    if shuffle is False:
        yield UserWarning(f'{key}.sampler.shuffle is False: every epoch has one order')
    if not size or not len(loader.dataset):
        return
    images = len(loader.sampler)  # of one process
    endless = isinstance(loader.sampler, InfiniteSampler)
    last_of_one = images % size == 1 and not loader.drop_last and not endless
    if not single or (size > 1 and not last_of_one):
        return
    norm = f'model.{single[0]} normalises over the images of a batch'
    if size == 1:
        yield ConfigError(f'{key}.batch_size is 1, but {norm} and needs two')
    else:
        yield ConfigError(
            f'{key}: the last batch of an epoch has one image ({images} images per '
            f'process, batch_size={size}), but {norm} and needs two; set '
            f'{key}.drop_last=True'
        )
