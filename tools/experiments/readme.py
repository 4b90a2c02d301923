"""Writes the tables and pictures of a folder's results into its README.md."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', default='configs/ablation')
    parser.add_argument('--page', help='write into PAGE instead, tables alone')
    args = parser.parse_args()
    # Seconds of imports that -h does not need.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is not here, or not the right one
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.analysis.results import update_readme

        update_readme(args.folder, args.page)
        print(args.page or f'{args.folder}/README.md')


if __name__ == '__main__':
    main()
