"""Publishes a checkpoint: packs it, evaluates the packed file, adds it to the zoo."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config; its name without .py is the model name')
    parser.add_argument('checkpoint', help='checkpoint of the run')
    parser.add_argument('--zoo', default='zoo', help='folder of the zoo (zoo)')
    parser.add_argument(
        '--log',
        metavar='RUN_DIR',
        help='folder of the run (default: that of the checkpoint)',
    )
    parser.add_argument(
        '--command',
        help='command that trained it (default: from the config of the run)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the images (default: from the test pipeline)',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names, or a text file with one name per line (default: those of '
        'the checkpoint, or else of the data set)',
    )
    parser.add_argument(
        '--ends',
        choices=('fp32', 'int8'),
        default='fp32',
        help='int8: 8-bit integers in the float layers (fp32)',
    )
    args = parser.parse_args()
    args.size = args.size and tuple(args.size)
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.publishing import publish

        print(publish(**vars(args)))


if __name__ == '__main__':
    main()
