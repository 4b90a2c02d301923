"""The papers' accuracies, and the full-precision networks to compare with."""

from typing import NamedTuple


class PaperAccuracy(NamedTuple):
    """Accuracy of a network in the paper, in %."""

    top1: float
    top5: float | None = None
    source: str = 'paper'


#: Most papers after IR-Net report the epoch that was best on the test set.
_BEST = 'paper, best test epoch'
_RECALLED = 'paper, recalled'
#: The papers' figures by name of the config. The recalled ones, among them those of the
#: full-precision networks, are quoted from memory.
PAPER = {
    'resnet20_bireal_cifar10': PaperAccuracy(86.5),
    'resnet20_normal_cifar10': PaperAccuracy(85.4, source=_RECALLED),
    'resnet20_w1a32_cifar10': PaperAccuracy(90.8),
    'resnet20_fp_cifar10': PaperAccuracy(91.7, source=_RECALLED),
    'resnet18_normal_cifar10': PaperAccuracy(91.5),
    'resnet18_fp_cifar10': PaperAccuracy(93.0, source=_RECALLED),
    'vgg-small_cifar10': PaperAccuracy(90.4),
    'vgg-small_fp_cifar10': PaperAccuracy(91.7, source=_RECALLED),
    'resnet18_bireal_in1k': PaperAccuracy(58.1, 80.0),
    'resnet18_w1a32_in1k': PaperAccuracy(66.5, 86.8),
    'resnet34_bireal_in1k': PaperAccuracy(62.9, 84.1),
    'resnet34_w1a32_in1k': PaperAccuracy(70.4, 89.5),
    'reste_resnet20_normal_cifar10': PaperAccuracy(86.75, source=_BEST),
    'reste_resnet20_bireal_cifar10': PaperAccuracy(87.92, source=_BEST),
    'reste_resnet18_normal_cifar10': PaperAccuracy(92.63, source=_BEST),
    'reste_vgg-small_cifar10': PaperAccuracy(92.55, source=_BEST),
    'reste_resnet18_bireal_in1k': PaperAccuracy(60.88, source=_BEST),
    'recu_resnet20_bireal_cifar10': PaperAccuracy(87.5, source=_BEST),
    'recu_resnet18_normal_cifar10': PaperAccuracy(92.8, source=_BEST),
    'recu_vgg-small_cifar10': PaperAccuracy(92.2, source=_BEST),
    'recu_resnet18_bireal_in1k': PaperAccuracy(60.98, source=_BEST),
    'adabin_resnet20_bireal_cifar10': PaperAccuracy(88.1, source=_BEST),
    'adabin_vgg-small_cifar10': PaperAccuracy(92.3, source=_BEST),
    'adabin_resnet18_bireal_in1k': PaperAccuracy(63.1, source=_BEST),
    'react_resnet18_bireal_step2_in1k': PaperAccuracy(65.9, source=_BEST),
    'ovsw_resnet18_bireal_in1k': PaperAccuracy(61.6, source=_BEST),
    'biper_resnet20_bireal_step2_cifar10': PaperAccuracy(86.98, source=_BEST),
    'biper_resnet18_normal_step2_cifar10': PaperAccuracy(93.75, source=_BEST),
    'biper_vgg-small_step2_cifar10': PaperAccuracy(92.46, source=_BEST),
    'biper_resnet18_bireal_step2_in1k': PaperAccuracy(61.4, source=_BEST),
}

#: Full-precision twins by network: that of the paper first, then one with the same
#: structure and activation.
TWINS = {
    'resnet20_bireal': ('resnet20_fp', 'resnet20_bireal_fp'),
    'resnet20_normal': ('resnet20_fp',),
    'resnet20_w1a32': ('resnet20_fp',),
    'resnet18_normal': ('resnet18_fp',),
    'resnet18_bireal': ('resnet18_fp',),
    'resnet18_w1a32': ('resnet18_fp',),
    'vgg-small': ('vgg-small_fp',),
}


def twins(config: str) -> tuple[str, ...]:
    """Returns the full-precision twins of a config, on the same images.

    Args:
        config (str): Name of the config.

    Returns:
        tuple[str, ...]: Names of configs; the first is the network of the paper.

    Example:
        >>> twins('vgg-small_cifar10-jpeg'), twins('fair_bnn_cifar10-jpeg')
        (('vgg-small_fp_cifar10-jpeg',), ('fair_fp_cifar10-jpeg',))
    """
    network, _, data = config.rpartition('_')
    same_budget = network.startswith('fair_') and network != 'fair_fp'
    found = ('fair_fp',) if same_budget else TWINS.get(network, ())
    return tuple(f'{twin}_{data}' for twin in found)


def paper_accuracy(config: str) -> PaperAccuracy | None:
    """Returns the paper's figure for the network and recipe of a config.

    Args:
        config (str): Name of the config. For the JPEG copy of CIFAR-10, the figure is
            that of the lossless images.

    Returns:
        PaperAccuracy | None: The figure, if there is one.

    Example:
        >>> paper_accuracy('resnet20_bireal_cifar10-jpeg').top1
        86.5
    """
    return PAPER.get(config.removesuffix('-jpeg'))
