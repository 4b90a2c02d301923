"""Draws a run's curves: loss, accuracy, and EDE's t and k over the epochs."""

import argparse


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', help="the run's working folder")
    parser.add_argument('--out', help='the picture (WORK_DIR/curves.png)')
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and draws."""
    args = parse_args()
    from mmirnet.analysis.curves import plot_curves
    from mmirnet.engine.errors import one_line_errors

    with one_line_errors():
        print(plot_curves(args.work_dir, args.out))


if __name__ == '__main__':
    main()
