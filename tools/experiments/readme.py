"""Writes tables and plots of a folder's results into its README.md."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', default='configs/ablation')
    parser.add_argument('--page', help='write only the tables, into PAGE')
    args = parser.parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.analysis.results import update_readme

        update_readme(args.folder, args.page)
        print(args.page or f'{args.folder}/README.md')


if __name__ == '__main__':
    main()
