"""Writes a report on one or several runs: one HTML page that needs no network."""

import argparse


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'run_dirs', nargs='+', metavar='RUN_DIR', help='working folders, side by side'
    )
    parser.add_argument(
        '--out', metavar='FILE', default='report.html', help='the page (report.html)'
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='what to evaluate, pack and time, of a single run (its newest one)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the images (what the test pipeline gives)',
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and writes the page."""
    args = parse_args()
    # Seconds of imports that -h does not need.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is not here, or not the right one
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.reports import write_report

        size = args.size and tuple(args.size)
        print(write_report(args.run_dirs, args.out, args.checkpoint, size))


if __name__ == '__main__':
    main()
