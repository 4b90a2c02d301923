"""Plots of the method, of a run and of experiments.

Every function returns a Figure for a light or a dark background. The colours are those
of Okabe and Ito, which are distinguishable with all types of colour vision. Lines also
differ in their dashes.
"""

from .experiments import accuracy_and_costs, accuracy_curves
from .method import ede_family, ede_stages, estimator_errors, method_figures
from .recipes import recipe_curves
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
    'recipe_curves',
    'run_figures',
    'save',
    'save_svg',
    'training_curves',
]
