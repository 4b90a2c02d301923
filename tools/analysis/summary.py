"""Shows what a model costs: bits, bytes and operations of every layer."""

import argparse


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
        help='checkpoint whose scales to count (default: a new network)',
    )
    parser.add_argument(
        '--size',
        '--input-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the images (default: from the test pipeline)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config',
    )
    parser.add_argument('--json', metavar='FILE', help='write everything as JSON')
    parser.add_argument('--csv', metavar='FILE', help='write the table as CSV')
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and shows the table."""
    args = parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors, parse_options
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.analysis.cost.count import summarize_config

        summarize_config(
            args.config,
            args.checkpoint,
            size=args.size and tuple(args.size),
            cfg_options=parse_options(args.cfg_options),
            json_file=args.json,
            csv_file=args.csv,
        ).show()


if __name__ == '__main__':
    main()
