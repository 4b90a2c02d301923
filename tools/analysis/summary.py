"""Shows what a model costs: bits, bytes and operations of every layer."""

import argparse

try:
    from mmengine.config import DictAction
except ImportError:  # which main tells
    DictAction = 'store'


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        help='config file, or PACKAGE::PATH of one in an installed package '
        '(mmirnet::irnet/resnet20_bireal_digits.py)',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='whose weights the scales are counted of (a new network)',
    )
    parser.add_argument(
        '--size',
        '--input-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the images (what the test pipeline gives)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings over those of the config',
    )
    parser.add_argument('--json', metavar='FILE', help='write everything as JSON')
    parser.add_argument('--csv', metavar='FILE', help='write the table as CSV')
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and shows the table."""
    args = parse_args()
    # Seconds of imports that -h does not need.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is not here, or not the right one
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.analysis.cost.count import summarize_config

        summarize_config(
            args.config,
            args.checkpoint,
            size=args.size and tuple(args.size),
            cfg_options=args.cfg_options,
            json_file=args.json,
            csv_file=args.csv,
        ).show()


if __name__ == '__main__':
    main()
