"""Classify images with a packed model: needs mmirnet, numpy, safetensors, Pillow."""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', help='a file written by tools/deploy/pack.py')
    parser.add_argument('images', nargs='+')
    parser.add_argument('--topk', type=int, default=5)
    parser.add_argument('--threads', type=int)
    args = parser.parse_args()
    try:
        from mmirnet.deploy import load
        from mmirnet.deploy.predictions import classify, report, top_k

        engine = load(args.model, threads=args.threads)
        scores = classify(engine, args.images)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f'error: {error}\n')
    for path, row in zip(args.images, scores, strict=True):
        print(report(path, top_k(row, engine.classes, args.topk)))


if __name__ == '__main__':
    main()
