"""The recipes beside IR-Net, one file each: formulas, and layers that use them."""

from .adabin import AdaBinConv2d, AdaBinLinear
from .bihalf import BiHalfConv2d, BiHalfLinear
from .biper import BiPerConv2d, BiPerLinear
from .bireal import BiRealConv2d, BiRealLinear
from .bnn import BNNConv2d, BNNLinear
from .dorefa import DoReFaConv2d, DoReFaLinear
from .ovsw import OvSWConv2d, OvSWLinear
from .react import ReActConv2d, ReActLinear
from .recu import ReCUConv2d, ReCULinear
from .reste import ReSTEConv2d, ReSTELinear
from .xnor import XNORConv2d, XNORLinear

__all__ = [
    'AdaBinConv2d',
    'AdaBinLinear',
    'BNNConv2d',
    'BNNLinear',
    'BiHalfConv2d',
    'BiHalfLinear',
    'BiPerConv2d',
    'BiPerLinear',
    'BiRealConv2d',
    'BiRealLinear',
    'DoReFaConv2d',
    'DoReFaLinear',
    'OvSWConv2d',
    'OvSWLinear',
    'ReActConv2d',
    'ReActLinear',
    'ReCUConv2d',
    'ReCULinear',
    'ReSTEConv2d',
    'ReSTELinear',
    'XNORConv2d',
    'XNORLinear',
]
