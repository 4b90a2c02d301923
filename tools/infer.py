"""Classify images with a published model, a packed file or a checkpoint."""

import argparse
import sys


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='An image that cannot be read is named on stderr, the others are '
        'classified, and the exit code is 1.',
    )
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE',
        help="image files, folders of them, or patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        '--model',
        required=True,
        metavar='NAME',
        help='a name in the zoo, a packed file (.safetensors), or the config of '
        '--checkpoint',
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='a checkpoint of a config')
    parser.add_argument(
        '--runtime', action='store_true', help='run a packed file on the 1-bit runtime'
    )
    parser.add_argument(
        '--engine',
        action='store_true',
        dest='runtime',
        help='former name of --runtime',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='names of the classes, or a text file with one a line '
        "(the checkpoint's, else the data set's)",
    )
    parser.add_argument(
        '--topk', type=int, default=5, help='how many classes to name (5)'
    )
    parser.add_argument('--out', metavar='FILE', help='write the results as JSON')
    parser.add_argument(
        '--show-dir', metavar='FOLDER', help='draw the predictions into FOLDER'
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments, classifies and prints."""
    args = parse_args()
    # Seconds of imports that -h does not need.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is not here, or not the right one
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.inference import infer
        from mmirnet.runtime.predictions import Failures, report

        failures = Failures()
        results = infer(**vars(args), failed=failures)
        for result in results:
            print(report(**result))
    if failures:
        sys.exit(failures.summary(len(failures) + len(results)))


if __name__ == '__main__':
    main()
