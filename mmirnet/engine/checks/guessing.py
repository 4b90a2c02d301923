"""Whether a classifier learns anything, by its loss.

A network whose layers pass nothing on predicts all classes alike. Its loss is finite
and stays at that of guessing, so nothing else would stop or report such a run.
"""

import math

from mmengine.runner import Runner
from mmpretrain.models.losses import CrossEntropyLoss

from ..wrappers import unwrap

#: Share of the loss of guessing above which a network has learned nothing.
SHARE = 0.99
#: Iterations before which it may have learned little.
FIRST = 100


def learns_nothing(runner: Runner) -> str | None:
    """Compares the mean loss of the last epoch with that of guessing.

    Guessing among C classes has a cross entropy of ln C.

    Args:
        runner (Runner): The runner, after an epoch.

    Returns:
        str | None: A warning; None if the network has learned something, if the loss
        is not one cross entropy of single labels, or in the first 100 iterations.
    """
    head = getattr(unwrap(runner.model), 'head', None)
    loss, classes = (getattr(head, n, None) for n in ('loss_module', 'num_classes'))
    scalars = runner.message_hub.log_scalars
    losses = [name for name in scalars if name.startswith('train/') and 'loss' in name]
    known = type(loss) is CrossEntropyLoss and not loss.use_sigmoid
    known &= isinstance(classes, int) and losses == ['train/loss']
    if not known or runner.iter < FIRST:
        return None
    mean = scalars['train/loss'].mean(len(runner.train_dataloader)).item()
    guess = loss.loss_weight * math.log(classes)
    if mean < SHARE * guess:
        return None
    return (
        f'the loss of this epoch is {mean:.3f}, and guessing among {classes} classes '
        f'has {guess:.3f}: the network has learned nothing so far. Lower '
        'optim_wrapper.optimizer.lr; BinaryStatsHook shows layers whose inputs have '
        'one sign'
    )
