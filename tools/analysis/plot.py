"""Draws the standard plots of a run, or those that explain the method."""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        'run_dir',
        nargs='?',
        help='work folder of a run: plots curves, flip rates, entropies, weights',
    )
    what.add_argument(
        '--method',
        action='store_true',
        help='plot the curves and stages of EDE and the errors of the estimators',
    )
    parser.add_argument(
        '--out', metavar='DIR', help='folder for the plots (RUN_DIR/figures)'
    )
    parser.add_argument(
        '--style', choices=['light', 'dark'], default='light', help='background (light)'
    )
    parser.add_argument(
        '--epochs',
        type=int,
        nargs='+',
        metavar='N',
        help='epochs whose weights to plot (default: first, middle, last checkpoint)',
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and draws."""
    args = parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    dark = args.style == 'dark'
    with one_line_errors():
        from mmirnet.analysis import plots

        if args.method:
            figures, notes = plots.method_figures(dark), []
        else:
            run = plots.read_run(args.run_dir, args.epochs)
            figures, notes = plots.run_figures(run, dark)
        folder = args.out or Path(args.run_dir or '.') / 'figures'
        for path in plots.save(figures, folder):
            print(path)
        for note in notes:
            print(f'note: {note}')


if __name__ == '__main__':
    main()
