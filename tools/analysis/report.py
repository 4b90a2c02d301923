"""Writes a report on one or several runs as one self-contained HTML page."""

import argparse


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'run_dirs', nargs='+', metavar='RUN_DIR', help='work folders to compare'
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='page to write (report.html in RUN_DIR, in this folder for several)',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='checkpoint of a single run to evaluate, pack and time (default: newest)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the images (default: from the test pipeline)',
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and writes the page."""
    args = parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.reports import write_report

        size = args.size and tuple(args.size)
        print(write_report(args.run_dirs, args.out, args.checkpoint, size))


if __name__ == '__main__':
    main()
