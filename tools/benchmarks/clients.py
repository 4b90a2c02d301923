"""Times the 1-bit runtime under load: many threads send single images to one session.

The numbers of clients alternate, so that noise affects all of them alike. The script
prints the median and the 99th percentile of the latency, and images per second.
"""

import argparse
import threading
import time
from datetime import date

import numpy as np
import torch
from inference import resnet18, warm_up
from reports import write_json

from mmirnet.apis.command_line import at_least, writable
from mmirnet.engine.speed import device_name
from mmirnet.packed import pack
from mmirnet.runtime import Session


def latencies(
    session: Session, image: np.ndarray, clients: int, seconds: float
) -> tuple[list[float], float]:
    """Returns the latency of each call, and images per second of all clients."""
    start = threading.Barrier(clients + 1)
    found: list[list[float]] = [[] for _ in range(clients)]

    def call(times: list[float]) -> None:
        start.wait()
        end = time.perf_counter() + seconds
        while (before := time.perf_counter()) < end:
            session.predict(image)
            times.append(time.perf_counter() - before)

    threads = [threading.Thread(target=call, args=[times]) for times in found]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    calls = [t for times in found for t in times]
    return calls, len(calls) / (time.perf_counter() - began)


def measure(
    image: np.ndarray, sessions: list[Session], args: argparse.Namespace
) -> list[dict]:
    """Returns a row for each session and number of clients."""
    cases = [(session, clients) for session in sessions for clients in args.clients]
    samples: list[list[float]] = [[] for _ in cases]
    rates: list[list[float]] = [[] for _ in cases]
    for session in sessions:
        session.predict(image)
    for _ in range(args.rounds):
        for (session, clients), times, rate in zip(cases, samples, rates, strict=True):
            calls, per_second = latencies(session, image, clients, args.seconds)
            times += calls
            rate.append(per_second)
    return [
        dict(
            threads=session.threads,
            clients=clients,
            p50_ms=1e3 * float(np.median(times)),
            p99_ms=1e3 * float(np.percentile(times, 99)),
            images_per_s=float(np.median(rate)),
        )
        for (session, clients), times, rate in zip(cases, samples, rates, strict=True)
    ]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--clients',
        type=at_least(1),
        nargs='+',
        default=[1, 2, 4],
        help='numbers of threads that send images (1 2 4)',
    )
    parser.add_argument(
        '--threads',
        type=at_least(1),
        nargs='+',
        default=[1, 2],
        help='threads of a session (1 2)',
    )
    parser.add_argument(
        '--size',
        type=at_least(1),
        default=224,
        help='height and width of the images (224)',
    )
    parser.add_argument(
        '--rounds',
        type=at_least(1),
        default=5,
        help='turns of each number of clients (5)',
    )
    parser.add_argument(
        '--seconds', type=at_least(0.001), default=1, help='seconds of a turn (1)'
    )
    parser.add_argument('--out', type=writable, help='JSON file for the results')
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sample = torch.randn(4, 3, args.size, args.size)
    packed = pack(warm_up(resnet18('IRConv2d'), sample), sample.shape[2:])
    sessions = [Session(packed, threads) for threads in args.threads]
    rows = measure(sample[:1].numpy(), sessions, args)
    print(f'ResNet-18, {args.size}x{args.size}, single images, {sessions[0].isa}')
    for row in rows:
        print(
            f'  {row["threads"]} threads, {row["clients"]} clients: '
            f'p50 {row["p50_ms"]:.2f} ms, p99 {row["p99_ms"]:.2f} ms, '
            f'{row["images_per_s"]:.0f} images/s'
        )
    if args.out:
        device = device_name(torch.device('cpu'))
        report = dict(
            date=date.today().isoformat(), cpu=device, isa=sessions[0].isa, rows=rows
        )
        write_json(args.out, report)


if __name__ == '__main__':
    main()
