"""Formulas and layers of IR-Net and the other recipes. Needs only torch."""

from .activations import Hardtanh, hardtanh
from .estimators import ESTIMATORS, Estimator, binary_sign, register_estimator, sign
from .functional import ConvGeometry, binary_conv2d
from .layers import (
    BinaryConv2d,
    BinaryLinear,
    IRConv2d,
    IRLinear,
    binary_layers,
    set_ede,
    set_schedule,
)
from .recipe import (
    FILTER_MEAN,
    LAYER_MEAN,
    PLAIN,
    RECIPES,
    InputRule,
    Latent,
    OutputScale,
    Quantized,
    Recipe,
    register_recipe,
)
from .recipes import *  # noqa: F403
from .recipes import __all__ as _recipes
from .schedules import SCHEDULES, Schedule, ede, register_schedule, schedule_at
from .statistics import (
    bit_entropy,
    estimator_statistics,
    input_statistics,
    log2_scales,
    weight_statistics,
)
from .weights import (
    SCALES,
    Scale,
    WeightRule,
    binary_weight,
    libra_pb,
    register_scale,
)

__all__ = [
    'ESTIMATORS',
    'FILTER_MEAN',
    'LAYER_MEAN',
    'PLAIN',
    'RECIPES',
    'SCALES',
    'SCHEDULES',
    'BinaryConv2d',
    'BinaryLinear',
    'ConvGeometry',
    'Estimator',
    'Hardtanh',
    'IRConv2d',
    'IRLinear',
    'InputRule',
    'Latent',
    'OutputScale',
    'Quantized',
    'Recipe',
    'Scale',
    'Schedule',
    'WeightRule',
    'binary_conv2d',
    'binary_layers',
    'binary_sign',
    'binary_weight',
    'bit_entropy',
    'ede',
    'estimator_statistics',
    'hardtanh',
    'input_statistics',
    'libra_pb',
    'log2_scales',
    'register_estimator',
    'register_recipe',
    'register_scale',
    'register_schedule',
    'schedule_at',
    'set_ede',
    'set_schedule',
    'sign',
    'weight_statistics',
    *_recipes,
]
