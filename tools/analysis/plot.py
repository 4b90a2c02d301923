"""Draws the standard pictures of a run, or the method's own."""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        'run_dir',
        nargs='?',
        help="the run's working folder: curves, flip rates, entropies, weights",
    )
    what.add_argument(
        '--method',
        action='store_true',
        help="EDE's curves and stages, and the estimators' errors; needs no run",
    )
    parser.add_argument(
        '--out', metavar='DIR', help='folder for the pictures (RUN_DIR/figures)'
    )
    parser.add_argument(
        '--style', choices=['light', 'dark'], default='light', help='background (light)'
    )
    parser.add_argument(
        '--epochs',
        type=int,
        nargs='+',
        metavar='N',
        help='whose weights to draw (first, middle and last checkpoint)',
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and draws."""
    args = parse_args()
    # Seconds of imports that -h does not need.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is not here, or not the right one
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
