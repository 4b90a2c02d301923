"""A classifier that also learns from a teacher or with a regulariser."""

import torch
import torch.nn.functional as F
from mmpretrain.models import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..binary import binary_layers
from ..binary.recipes.biper import BIPER
from ..errors import ConfigError, check_number


@MODELS.register_module()
class DistillationLoss(nn.Module):
    r"""Cross entropy of a student's scores to the softmax of its teacher's.

    .. math::
        -\frac{\text{loss_weight} \cdot T^2}{N} \sum_{i,c}
        \text{softmax}(z_i / T)_c \, \log \text{softmax}(y_i / T)_c

    with the student's logits y and the teacher's logits z. With T = 1 it is the
    distribution loss of `ReActNet <https://arxiv.org/abs/2003.03488>`_. The factor
    :math:`T^2` keeps the size of the gradient.

    Args:
        loss_weight (float): Factor of the loss.
        temperature (float): T.

    Raises:
        ConfigError: If an argument is not positive.

    Example:
        >>> DistillationLoss()(torch.zeros(2, 4), torch.zeros(2, 4))
        tensor(1.3863)
    """

    def __init__(self, loss_weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check_number('DistillationLoss: loss_weight', loss_weight, 0, more=True)
        check_number('DistillationLoss: temperature', temperature, 0, more=True)
        self.loss_weight = loss_weight
        self.temperature = temperature

    def forward(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Computes the loss of logits (N, classes)."""
        wanted = (teacher_logits / self.temperature).softmax(1)
        loss = F.cross_entropy(logits / self.temperature, wanted)
        return self.loss_weight * self.temperature**2 * loss


@MODELS.register_module()
class BiPerRegulariser(nn.Module):
    r"""BiPer's regulariser: its layers' mean of :math:`\sin^2(\omega w)`, summed up.

    Args:
        loss_weight (float): Factor of the loss, tau in the paper.

    Raises:
        ConfigError: If the factor is not positive; in training, if the model has no
            layers of BiPer.

    Example:
        >>> from mmirnet.binary import BiPerConv2d
        >>> model = nn.Sequential(BiPerConv2d(2, 4, 3), BiPerConv2d(4, 4, 3))
        >>> model[0].weight.data.zero_(), model[1].weight.data.fill_(torch.pi / 40)
        (tensor(...
        >>> BiPerRegulariser(loss_weight=0.25)(model).item()
        0.25
    """

    def __init__(self, loss_weight: float) -> None:
        super().__init__()
        check_number('BiPerRegulariser: loss_weight', loss_weight, 0, more=True)
        self.loss_weight = loss_weight

    def forward(self, model: nn.Module) -> Tensor:
        """Computes the loss of the latent weights of a model."""
        losses = [
            (layer.t_and_k[0] * layer.weight).sin().square().mean()
            for _, layer in binary_layers(model)
            if layer.recipe is BIPER
        ]
        if not losses:
            raise ConfigError(
                'model.regulariser: the model has no layers of BiPer (BiPerConv2d, '
                'BiPerLinear)'
            )
        return self.loss_weight * torch.stack(losses).sum()


@MODELS.register_module()
class BinaryClassifier(ImageClassifier):
    """MMPretrain's ``ImageClassifier`` with two more sources of loss.

    Both are for training alone: weights, names of weights and predictions are those of
    ``ImageClassifier``, and evaluation, packing and export need neither.

    - A full-precision teacher, as in `ReActNet <https://arxiv.org/abs/2003.03488>`_.
      It sees the student's images after augmentation and normalisation. Its outputs
      replace the labels, or are a second target besides them.
    - A regulariser of the weights, as in BiPer.

    The log shows the sum as ``loss`` and its parts as ``label_loss``,
    ``distillation_loss`` and ``regularisation_loss``.

    Args:
        *args: Arguments of ``ImageClassifier``.
        teacher (dict | None): Config of the teacher,
            ``dict(type='Teacher', config=..., checkpoint=...)``, see
            :class:`~mmirnet.engine.Teacher`.
        distillation (dict | None): Config of the loss between the outputs of student
            and teacher. Defaults to ``dict(type='DistillationLoss')``.
        label_weight (float): Factor of the head's own loss if there is a teacher. With
            0, as in ReActNet, labels are not used.
        regulariser (dict | None): Config of a module that computes a loss from the
            model, such as :class:`BiPerRegulariser`.
        **kwargs: Keyword arguments of ``ImageClassifier``.

    Raises:
        ConfigError: If the arguments contradict each other, or if the head does not fit
            a teacher.

    Example:
        >>> model = dict(
        ...     type='BinaryClassifier',
        ...     teacher=dict(
        ...         type='Teacher',
        ...         config='resnet34_8xb32_in1k',
        ...         checkpoint='resnet34.pth'),
        ...     backbone=dict(type='IRResNet', depth=18),
        ...     neck=dict(type='GlobalAveragePooling'),
        ...     head=dict(type='LinearClsHead', num_classes=1000, in_channels=512))
        >>> from mmpretrain.registry import MODELS
        >>> student = MODELS.build(model)
        >>> any('teacher' in name for name in student.state_dict())
        False
    """

    def __init__(
        self,
        *args,
        teacher: dict | None = None,
        distillation: dict | None = None,
        label_weight: float = 0.0,
        regulariser: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_number('model.label_weight', label_weight, 0)
        if teacher is None and (distillation or label_weight):
            name = 'distillation' if distillation else 'label_weight'
            raise ConfigError(f'model.{name} has no effect without model.teacher')
        head = getattr(self, 'head', None)
        # Their loss is a function of the scores, which the teacher's loss needs, too.
        plain = isinstance(head, ClsHead) and type(head).loss is ClsHead.loss
        if teacher is not None and not plain:
            raise ConfigError(
                'model.teacher needs a head with one score for each class, such as '
                f'LinearClsHead, and not {type(head).__name__}'
            )
        self.label_weight = label_weight
        # No module, so its weights are neither trained, saved, wrapped nor averaged.
        self.teacher = None if teacher is None else _build('teacher', teacher)
        self.distillation = self.regulariser = None
        if teacher is not None:
            distillation = distillation or dict(type='DistillationLoss')
            self.distillation = _build('distillation', distillation)
        if regulariser is not None:
            self.regulariser = _build('regulariser', regulariser)

    def init_weights(self) -> None:
        """Initialises the weights, and loads the teacher before training starts.

        Raises:
            ConfigError: If the teacher does not fit the model.
            CheckpointError: If its checkpoint is missing or does not fit.
        """
        super().init_weights()
        if self.teacher is not None:
            self.teacher.load(self)

    def _apply(self, fn, recurse: bool = True) -> 'BinaryClassifier':
        super()._apply(fn, recurse)
        if self.__dict__.get('teacher') is not None:
            self.teacher.apply(fn)
        return self

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Computes the losses of a batch.

        Args:
            inputs (Tensor): Images, (N, C, H, W).
            data_samples (list[DataSample]): Their labels.

        Returns:
            dict[str, Tensor]: The losses by name, and what the head logs.
        """
        if self.teacher is None and self.regulariser is None:
            return super().loss(inputs, data_samples)
        losses = {}
        feats = self.extract_feat(inputs)
        if self.teacher is None:
            losses = self.head.loss(feats, data_samples)
        else:
            logits = self.head(feats)
            if self.label_weight:
                losses = self.head._get_loss(logits, data_samples)
                losses['loss'] = self.label_weight * losses['loss']
            wanted = self.teacher.logits(inputs, self)
            if wanted.shape != logits.shape:
                raise ConfigError(
                    f'model.teacher gives {wanted.shape[1]} scores for an image, and '
                    f'model.head {logits.shape[1]}'
                )
            losses['distillation_loss'] = self.distillation(logits, wanted)
        if self.regulariser is not None:
            losses['regularisation_loss'] = self.regulariser(self)
        # In MMEngine's log, "loss" is the sum.
        return {'label_loss' if k == 'loss' else k: v for k, v in losses.items()}


def _build(name: str, spec: dict):
    if not isinstance(spec, dict) or 'type' not in spec:
        raise ConfigError(f'model.{name} needs a dict with a type, got {spec!r}')
    return MODELS.build(spec)
