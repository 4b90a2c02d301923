"""Publish a checkpoint: pack it, evaluate the packed file, add it to the zoo."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='its name, without .py, becomes the model name')
    parser.add_argument('checkpoint')
    parser.add_argument('--zoo', default='zoo', help='folder of release files (zoo)')
    parser.add_argument(
        '--log', metavar='RUN_DIR', help="the run's folder (that of the checkpoint)"
    )
    parser.add_argument(
        '--command', help="how it was trained (made from the run's config)"
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of the images; default: what the test pipeline gives',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='names of the classes, or a text file with one a line; default: '
        "the checkpoint's, else the data set's",
    )
    args = parser.parse_args()
    args.size = args.size and tuple(args.size)
    # Seconds of imports that -h does not need.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is not here, or not the right one
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.publishing import publish

        print(publish(**vars(args)))


if __name__ == '__main__':
    main()
