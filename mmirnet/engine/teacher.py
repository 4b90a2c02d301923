"""The teacher of a distilled classifier."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmpretrain.apis import ModelHub
from mmpretrain.datasets import PackInputs
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, ZooError, first_line
from .config import load_config
from .facts import build_model


@MODELS.register_module()
class Teacher:
    """A frozen classifier, which is no part of the model that learns from it.

    It is built and loaded when a training starts. Evaluation, packing and copies of the
    student (EMA) do without. Its parameters are in no state dict, optimizer or wrapper.
    It is always in evaluation mode, on the device of its student, and computes without
    gradients under the autocast of its student.

    It gets the images as the student's data preprocessor makes them, so both must
    normalise alike.

    Args:
        config (dict | str): A model of MMPretrain or of this package: the dict of a
            model or of a complete config, a config file (also ``package::path``), or a
            name such as ``'resnet34_8xb32_in1k'`` or ``'irnet_resnet18_fp_cifar10'``.
            The dict of a model may leave out its data preprocessor.
        checkpoint (str | None): File, URL or ``irnet://NAME``. None takes the published
            weights of a name, if there are any.

    Raises:
        ConfigError: If an argument has another type.

    Example:
        >>> teacher = Teacher('irnet_resnet18_fp_cifar10', 'work_dirs/fp/epoch_400.pth')
        >>> teacher.network is None  # until training starts
        True
    """

    def __init__(self, config: dict | str, checkpoint: str | None = None) -> None:
        for name, value, kinds, what in (
            ('config', config, (dict, str), 'a dict, a config file or a name'),
            ('checkpoint', checkpoint, (str, type(None)), 'a file or URL'),
        ):
            if not isinstance(value, kinds):
                raise ConfigError(f'model.teacher.{name} must be {what}, got {value!r}')
        self.config = config
        self.checkpoint = checkpoint
        #: The loaded classifier.
        self.network: nn.Module | None = None

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        return Teacher(self.config, self.checkpoint)

    @property
    def classes(self) -> list[str] | None:
        """Class names in the checkpoint, if it is loaded and has any."""
        return getattr(self.network, '_dataset_meta', {}).get('classes')

    def load(self, student: nn.Module) -> None:
        """Builds the classifier, loads its weights, and compares it with a student.

        Args:
            student (nn.Module): The classifier that learns from it.

        Raises:
            ConfigError: If the classifier cannot be built or does not fit the student.
            CheckpointError: If the checkpoint is missing or does not fit.
        """
        cfg, checkpoint = self._resolved()
        # The student's initial weights are the same with and without a teacher.
        with torch.random.fork_rng(devices=[]):
            network = _built(cfg, checkpoint)
        for name, weight in network.state_dict().items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise CheckpointError(
                    f'model.teacher.checkpoint: {name} of {checkpoint} is not finite'
                )
        _compare(network, student, cfg)
        device = next(student.parameters()).device
        self.network = network.requires_grad_(False).to(device)

    def _resolved(self) -> tuple[Config, str]:
        """Returns config and checkpoint."""
        cfg, weights = _read(self.config)
        if 'model' not in cfg:
            raise ConfigError('model.teacher.config has no model')
        if (self.checkpoint or weights) is None:
            raise ConfigError(
                'model.teacher.checkpoint is missing: --cfg-options '
                'model.teacher.checkpoint=FILE sets it'
            )
        return cfg, self.checkpoint or weights

    def apply(self, fn) -> None:
        """Applies to its tensors what is applied to the student's, such as a device."""
        if self.network is not None:
            self.network._apply(fn)

    @torch.no_grad()
    def logits(self, images: Tensor, student: nn.Module) -> Tensor:
        """Computes the logits for a batch.

        Args:
            images (Tensor): Normalised images, (N, C, H, W).
            student (nn.Module): The classifier that learns from it.

        Returns:
            Tensor: Logits, (N, classes).
        """
        if self.network is None:  # a training without MMEngine's runner
            self.load(student)
        return self.network(images, mode='tensor')


def _read(config: dict | str) -> tuple[Config, str | None]:
    """Returns a config, and its published weights if it is a name with any."""
    if isinstance(config, dict):
        return Config(dict(config) if 'model' in config else dict(model=config)), None
    if Path(config).suffix == '.py':
        try:
            return load_config(config, None, 'none'), None
        except (OSError, ValueError) as error:
            raise ConfigError(f'model.teacher.config: {first_line(error)}') from error
    try:
        known = ModelHub.get(config)
    except ValueError as error:
        raise ConfigError(
            f'model.teacher.config: {config!r} is neither a config file (.py) nor a '
            'name in mmpretrain.list_models()'
        ) from error
    return known.config, known.weights


def _built(cfg: Config, checkpoint: str) -> nn.Module:
    try:
        return build_model(cfg, checkpoint)
    except (OSError, CheckpointError, ZooError) as error:
        text = f'model.teacher.checkpoint: {first_line(error)}'
        raise CheckpointError(text) from error
    except Exception as error:  # a constructor may raise anything
        raise ConfigError(f'model.teacher.config: {first_line(error)}') from error


def _compare(network: nn.Module, student: nn.Module, cfg: Config) -> None:
    """Refuses a teacher that has other classes or takes other images."""
    heads = [getattr(model, 'head', None) for model in (network, student)]
    given, wanted = (getattr(head, 'num_classes', None) for head in heads)
    differ = None not in (given, wanted) and given != wanted
    if heads[0] is None or differ:
        raise ConfigError(
            f'model.teacher has {given or "no"} classes, and model.head.num_classes '
            f'is {wanted}'
        )
    if set(cfg) == {'model'} and 'data_preprocessor' not in cfg.model:
        return  # the dict of a model, which does not say what images it takes
    one, other = map(_normalised, (network, student))
    if one.shape != other.shape or not torch.allclose(one, other):
        raise ConfigError(
            f'model.teacher was trained on images with {_settings(network)}, but gets '
            f'those of the student, with {_settings(student)}: data_preprocessor has '
            'to be that of the teacher'
        )


def _normalised(model: nn.Module) -> Tensor:
    """Returns an image of all grey levels, other ones in each channel, normalised."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.stack([levels, levels.T, levels[::-1]], axis=2)
    batch = default_collate([PackInputs()(dict(img=image))])
    return model.data_preprocessor(batch, False)['inputs'].cpu().float()


def _settings(model: nn.Module) -> str:
    preprocessor = model.data_preprocessor
    numbers = {
        name: [round(x, 3) for x in value.flatten().tolist()]
        for name in ('mean', 'std')
        if (value := getattr(preprocessor, name, None)) is not None
    }
    turned = getattr(preprocessor, 'to_rgb', None)
    return ', '.join(f'{k}={v}' for k, v in dict(numbers, to_rgb=turned).items())
