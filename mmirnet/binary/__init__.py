"""IR-Net's formulas and layers. Needs only torch."""

from .activations import Hardtanh, hardtanh
from .estimators import ESTIMATORS, Estimator, binary_sign, register_estimator, sign
from .functional import ConvGeometry, binary_conv2d
from .layers import IRConv2d, IRLinear, binary_layers, set_ede
from .schedules import ede
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
    'SCALES',
    'ConvGeometry',
    'Estimator',
    'Hardtanh',
    'IRConv2d',
    'IRLinear',
    'Scale',
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
    'register_scale',
    'set_ede',
    'sign',
    'weight_statistics',
]
