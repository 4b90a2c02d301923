"""Pictures of the method, of a run (what its network did), and of experiments.

Every function gives a Figure for a light or a dark background, in the colours of Okabe
and Ito, which people tell apart with every kind of colour vision; lines differ in
their dashes as well.
"""

from .experiments import accuracy_and_costs, accuracy_curves
from .method import ede_family, ede_stages, estimator_errors, method_figures
from .run import (
    LatentWeights,
    Run,
    confusion,
    entropies,
    flip_rates,
    latent_weights,
    read_run,
    run_figures,
    training_curves,
)
from .style import DARK, LIGHT, Style, save, save_svg

__all__ = [
    'DARK',
    'LIGHT',
    'LatentWeights',
    'Run',
    'Style',
    'accuracy_and_costs',
    'accuracy_curves',
    'confusion',
    'ede_family',
    'ede_stages',
    'entropies',
    'estimator_errors',
    'flip_rates',
    'latent_weights',
    'method_figures',
    'read_run',
    'run_figures',
    'save',
    'save_svg',
    'training_curves',
]
