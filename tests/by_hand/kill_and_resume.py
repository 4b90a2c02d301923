"""Kills runs at random moments, resumes them, and compares with an uninterrupted one.

    python tests/by_hand/kill_and_resume.py --kills 25

A run is killed with SIGKILL some time after a random line of its log (in front of the
first iteration, within an epoch, in validation, while a checkpoint is written) and
continued with --resume.
"""

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'helpers'))

from killed_runs import CASES, differences, finish, state, stop


def main() -> None:
    """Kill, resume, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=25, help='runs to kill in all')
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    args = parser.parse_args()
    rng = random.Random(args.seed)
    bad = 0
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        whole = {}
        for i in range(args.kills):
            case = args.cases[i % len(args.cases)]
            if case not in whole:
                events = finish(case, root / case / 'whole')
                whole[case] = len(events), state(root / case / 'whole')
            n, expected = whole[case]
            folder = root / case / f'killed-{i}'
            where = stop(
                case, folder, rng.randrange(n), rng.uniform(0, 0.3), signal.SIGKILL
            )
            finish(case, folder, resume=True)
            wrong = differences(expected, state(folder))
            bad += bool(wrong)
            verdict = f'DIFFERS at {wrong[:3]}' if wrong else 'identical'
            print(
                f'{i + 1:3d}/{args.kills} {case:10s} killed at {where}: {verdict}',
                flush=True,
            )
    print(f'{args.kills - bad} of {args.kills} resumed runs are bit-identical')
    sys.exit(bool(bad))


if __name__ == '__main__':
    main()
