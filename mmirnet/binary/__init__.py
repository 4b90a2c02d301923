"""IR-Net's mathematics and layers. Needs torch and nothing else."""

from .functional import (
    ESTIMATORS,
    SCALES,
    ConvGeometry,
    Estimator,
    WeightRule,
    binary_conv2d,
    binary_sign,
    binary_weight,
    ede,
    hardtanh,
    libra_pb,
    sign,
)
from .layers import Hardtanh, IRConv2d, IRLinear, binary_layers, set_ede
from .statistics import (
    bit_entropy,
    estimator_statistics,
    input_statistics,
    log2_scales,
    weight_statistics,
)

__all__ = [
    'ESTIMATORS',
    'SCALES',
    'ConvGeometry',
    'Estimator',
    'Hardtanh',
    'IRConv2d',
    'IRLinear',
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
    'set_ede',
    'sign',
    'weight_statistics',
]
