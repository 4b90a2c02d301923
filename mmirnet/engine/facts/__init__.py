"""Facts about a config and its checkpoint, taken from the objects that they build.

A config defines how objects are built, but not their properties: the image size may
come from any transform of a pipeline, the classes from a folder, and the preprocessor
may be part of the model. This package builds model, data set and pipeline and inspects
them. If a fact cannot be determined, the error names the argument that sets it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.config import Config
from torch import nn
from torch.utils.data import Dataset

from .channels import channel_order, held_order, normalised_twice, reverses_channels
from .classes import (
    checkpoint_classes,
    class_difference,
    class_names,
    dataset_classes,
    given_classes,
)
from .data_sets import (
    build_dataset,
    check_single,
    evaluation_set,
    held_shape,
    keyed_parts,
    parts,
    samples,
    training_set,
    transforms,
)
from .networks import (
    KINDS,
    build_model,
    check_classifies,
    head_kind,
    image_shape,
    logits_and_scores,
    predicts,
    reporting_size,
)

__all__ = [
    'KINDS',
    'Facts',
    'build_dataset',
    'build_model',
    'channel_order',
    'check_classifies',
    'check_single',
    'checkpoint_classes',
    'class_difference',
    'class_names',
    'dataset_classes',
    'evaluation_set',
    'gather',
    'given_classes',
    'head_kind',
    'held_order',
    'held_shape',
    'image_shape',
    'keyed_parts',
    'logits_and_scores',
    'normalised_twice',
    'parts',
    'predicts',
    'reporting_size',
    'reverses_channels',
    'samples',
    'training_set',
    'transforms',
]


@dataclass(frozen=True)
class Facts:
    """Facts about a trained classifier.

    Attributes:
        cfg (Config): The config.
        model (nn.Module): The model with the checkpoint's weights, in evaluation mode.
        dataset (Dataset | None): The test set, without images if its files are
            missing. None if the config has none.
        channels (int): Channels of the network's input.
        size (tuple[int, int]): Height and width of the input.
        outputs (int): Number of classes.
        classes (list[str] | None): Class names, if known.
        kind (str): Function from logits to scores: ``'softmax'`` or ``'sigmoid'``.
    """

    cfg: Config
    model: nn.Module
    dataset: Dataset | None
    channels: int
    size: tuple[int, int]
    outputs: int
    classes: list[str] | None
    kind: str


def gather(
    cfg: Config,
    checkpoint: str | None,
    *,
    size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
) -> Facts:
    """Collects the facts about a config and its checkpoint.

    Args:
        cfg (Config): The config, as returned by
            :func:`mmirnet.engine.config.load_config`.
        checkpoint (str | None): The checkpoint. None for a new network.
        size (tuple[int, int], optional): Height and width of the images. Defaults to
            the output size of the test set's pipeline.
        classes (Sequence[str], optional): Class names, or one text file with one name
            per line. Defaults to those of the checkpoint, or else of the data set.

    Returns:
        Facts: The facts.

    Raises:
        ConfigError: If a fact cannot be determined; names the argument that sets it.
        CheckpointError: If the checkpoint is damaged or does not fit.
        FileNotFoundError: If the checkpoint does not exist.

    Example:
        >>> from mmirnet.engine.config import load_config
        >>> config = 'mmirnet::irnet/resnet20_bireal_digits.py'
        >>> facts = gather(load_config(config, None, 'none'), None)
        >>> facts.channels, facts.size, facts.outputs, facts.kind
        (3, (32, 32), 10, 'softmax')
        >>> facts.classes
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
    """
    model = build_model(cfg, checkpoint)
    dataset = evaluation_set(cfg)
    channels, size = image_shape(model, dataset, size)
    outputs, kind = head_kind(model, (channels, *size))
    names = class_names(model, dataset, outputs, classes)
    return Facts(cfg, model, dataset, channels, size, outputs, names, kind)
