"""The runtime in other people's Python: copies, workers, forks, threads, limits."""

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from networks import mixed_network, warm_up
from small_run import environment

from mmirnet.errors import ConfigError
from mmirnet.packed import pack, write
from mmirnet.runtime import Session, default_threads, session
from mmirnet.runtime import session as engine

linux = pytest.mark.skipif(sys.platform != 'linux', reason='needs Linux')


@pytest.fixture(scope='module')
def packed():
    torch.manual_seed(3)
    return pack(warm_up(mixed_network(), 3, 13, 10), (13, 10))


@pytest.fixture(scope='module')
def x():
    return np.random.default_rng(0).normal(size=(9, 3, 13, 10)).astype(np.float32)


@pytest.fixture(scope='module')
def wanted(packed, x):
    return Session(packed, 1).predict(x)


@pytest.fixture
def script(packed, x, wanted, tmp_path):
    """Runs code in a Python of its own, with an engine of two threads and images."""
    write(packed, tmp_path / 'model.safetensors')
    np.savez(tmp_path / 'case.npz', x=x, wanted=wanted)

    def run(code, timeout=60):
        start = f"""
            import importlib.util, os, signal, sys, threading, time
            import numpy as np
            find = importlib.util.find_spec  # without mmengine no torch is imported
            importlib.util.find_spec = lambda n, *a: n != 'mmengine' and find(n, *a)
            from mmirnet.packed import read
            from mmirnet.runtime import Session, _native
            _native.Network.share_from(0)  # the smallest images, too
            packed = read({str(tmp_path / 'model.safetensors')!r})
            case = np.load({str(tmp_path / 'case.npz')!r})
            x, wanted = case['x'], case['wanted']
            many = np.concatenate([x] * 4000)  # a second or so
            engine = Session(packed, threads=2)
        """
        return subprocess.run(
            [sys.executable, '-c', textwrap.dedent(start) + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment(),
        )

    return run


COPIES = {
    'copy': copy.copy,
    'deepcopy': copy.deepcopy,
    'pickle': lambda e: pickle.loads(pickle.dumps(e)),
    'pickle 2': lambda e: pickle.loads(pickle.dumps(e, 2)),
    'torch module': lambda e: copy.deepcopy(_Module(e)).engine,
}


class _Module(torch.nn.Module):
    def __init__(self, engine):
        super().__init__()
        self.engine = engine


@pytest.mark.parametrize('duplicate', COPIES)
def test_copies_predict_the_same(packed, x, wanted, duplicate):
    engine = Session(packed, threads=2, isa='portable')
    again = COPIES[duplicate](engine)
    assert (again.threads, again.isa) == (2, 'portable')
    np.testing.assert_array_equal(again.predict(x), engine.predict(x))


def test_what_was_left_open_is_chosen_anew(packed, monkeypatch):
    """As on another machine: with other cores and other instruction sets."""
    data = pickle.dumps(Session(packed))
    forced = pickle.dumps(Session(packed, threads=2, isa='portable'))
    monkeypatch.setattr(engine, 'default_threads', lambda: 5)
    monkeypatch.setenv('MMIRNET_ISA', 'portable')
    again = pickle.loads(data)
    assert (again.threads, again.isa) == (5, 'portable')
    again = pickle.loads(forced)
    assert (again.threads, again.isa) == (2, 'portable')


def test_a_forced_instruction_set_stays_forced(packed, monkeypatch):
    data = pickle.dumps(Session(packed, isa='portable'))

    native = session._native

    class Other:
        def __getattr__(self, name):
            return getattr(native, name)

        def instruction_sets(self):
            return ['mmx']

    monkeypatch.setattr(session, '_native', Other())
    with pytest.raises(ConfigError, match="isa: 'portable' is not one of mmx"):
        pickle.loads(data)


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_pools_of_processes(packed, x, wanted, method):
    engine = Session(packed, threads=2)
    engine.predict(x)  # its threads run when the workers are forked
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        results = list(pool.map(engine.predict, [x, x[:1]]))
        assert pool.submit(default_threads).result() == 1
    np.testing.assert_array_equal(results[0], wanted)
    np.testing.assert_array_equal(results[1], wanted[:1])


def test_joblib(packed, x, wanted):
    joblib = pytest.importorskip('joblib')
    predict = joblib.delayed(Session(packed).predict)
    count = joblib.delayed(default_threads)
    *logits, threads = joblib.Parallel(2)([predict(x), predict(x[:1]), count()])
    np.testing.assert_array_equal(logits[0], wanted)
    np.testing.assert_array_equal(logits[1], wanted[:1])
    assert threads == 1


class _Predictions(torch.utils.data.Dataset):
    def __init__(self, engine, x):
        self.engine, self.x = engine, x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.engine.predict(self.x[i : i + 1])[0], default_threads()


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_of_a_data_loader(packed, x, wanted, method):
    engine = Session(packed, threads=2)
    engine.predict(x)
    loader = torch.utils.data.DataLoader(
        _Predictions(engine, x), 3, num_workers=1, multiprocessing_context=method
    )
    batches = list(loader)
    np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), wanted)
    assert {int(t) for b in batches for t in b[1]} == {1}


@linux
@pytest.mark.parametrize('limited', [False, True])
def test_fewer_threads_where_the_system_gives_no_more(script, limited):
    """Without address space for their stacks; no other limit holds for root."""
    result = script(f"""
        import resource
        def tasks():
            return len(os.listdir('/proc/self/task'))
        Session(packed, threads=1).predict(x)
        engine, before = Session(packed, threads=16), tasks()
        if {limited}:
            used = int(open('/proc/self/statm').read().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + 5 * (8 << 20),) * 2)
        for _ in range(3):
            assert (engine.predict(x[:1]) == wanted[:1]).all()
            assert (engine.predict(x) == wanted).all()
        print(tasks() - before)
    """)
    assert result.returncode == 0, result.stderr
    assert (int(result.stdout) < 15) == limited


@linux
def test_threads_share_what_is_worth_it(script):
    result = script("""
        def tasks():
            return len(os.listdir('/proc/self/task'))
        engine, before = Session(packed, threads=4), tasks()
        for seconds, helpers in (1e3, 0), (0, 3):
            _native.Network.share_from(seconds)
            for _ in range(5):
                assert (engine.predict(x[:1]) == wanted[:1]).all()
            assert tasks() - before == helpers, (seconds, tasks() - before)
        _native.Network.share_from(1e3)
        assert (engine.predict(x) == wanted).all()
    """)
    assert result.returncode == 0, result.stderr


def test_many_engines_share_their_threads(script):
    result = script("""
        engines = [Session(packed, threads=3) for _ in range(200)]
        for one in engines:
            assert (one.predict(x[:1]) == wanted[:1]).all()
        def tasks():
            return len(os.listdir('/proc/self/task')) if sys.platform == 'linux' else 0
        most = tasks()
        del one, engines, engine
        print(most, tasks())
    """)
    assert result.returncode == 0, result.stderr
    most, left = map(int, result.stdout.split())
    assert most - left <= 2


@pytest.mark.parametrize('after', ['predict', 'sys.exit', 'os._exit'])
@linux
def test_a_fork_while_other_threads_predict(script, after):
    result = script(f"""
        stop = False
        def go():
            while not stop:
                engine.predict(x)
                engine.predict(x[:1])
        callers = [threading.Thread(target=go, daemon=True) for _ in range(2)]
        for caller in callers: caller.start()
        for _ in range(20):
            child = os.fork()
            if not child:
                signal.alarm(20)
                if {after!r} == 'sys.exit': sys.exit(7)
                if {after!r} == 'os._exit': os._exit(7)
                assert (engine.predict(x) == wanted).all()
                assert (engine.predict(x[:1]) == wanted[:1]).all()
                os._exit(7)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code == 7, code
        stop = True
        for caller in callers: caller.join()
        assert (engine.predict(x) == wanted).all()
    """)
    assert result.returncode == 0, result.stderr


def test_a_long_prediction_is_interrupted(script):
    """By Ctrl-C, whether it computes or waits for its turn; the runtime lives on."""
    result = script("""
        # A shell's background jobs are started with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def interrupt():
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
        for engine in engine, Session(packed, threads=1):
            threading.Thread(target=interrupt).start()
            try:
                for _ in range(1000):
                    engine.predict(many)
            except KeyboardInterrupt:
                print('interrupted')
            assert (engine.predict(x) == wanted).all()
    """)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ['interrupted'] * 2


def test_a_signals_handler_may_predict_too(script):
    """In the middle of a prediction of the same engine, which goes on afterwards."""
    result = script("""
        seen = []
        def handler(*_):
            seen.append((engine.predict(x) == wanted).all())
        signal.signal(signal.SIGALRM, handler)
        for engine in engine, Session(packed, threads=1):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            while not seen:
                logits = engine.predict(many)
            assert (logits.reshape(4000, 9, -1) == wanted).all()
            print(seen.pop())
    """)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ['True'] * 2


def test_a_short_prediction_does_not_wait_for_a_long_one(packed, x, wanted):
    engine = Session(packed, threads=1)
    caller = threading.Thread(target=engine.predict, args=[np.concatenate([x] * 6000)])
    caller.start()
    time.sleep(0.05)
    for _ in range(300):
        np.testing.assert_array_equal(engine.predict(x[:1]), wanted[:1])
    assert caller.is_alive()
    caller.join()


@pytest.mark.parametrize('images', ['x[:1]', 'many[:9000]'])
def test_python_ends_while_a_daemon_thread_predicts(script, images):
    result = script(f"""
        def go():
            while True:
                engine.predict({images})
        for _ in range(3):
            threading.Thread(target=go, daemon=True).start()
        time.sleep(0.2)
        import atexit
        atexit.register(lambda: print((engine.predict(x) == wanted).all()))
    """)
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout.strip() == 'True'


def test_predicting_leaves_the_interpreter_to_others(packed, x):
    engine = Session(packed, threads=1)
    many, steps = np.concatenate([x] * 3000), []
    caller = threading.Thread(target=engine.predict, args=[many])
    caller.start()
    while caller.is_alive():
        steps.append(time.sleep(0.001))
    assert len(steps) > 5


def test_two_callers_get_their_own_logits(packed, x, wanted):
    engine = Session(packed, threads=2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        got = list(pool.map(engine.predict, [x[i % 9 :] for i in range(40)]))
    for i, logits in enumerate(got):
        np.testing.assert_array_equal(logits, wanted[i % 9 :])


def test_engines_share_threads(packed, x, wanted):
    engines = [Session(packed, threads) for threads in (2, 3, 4)]
    calls = [(engines[i % 3], x[i % 9 :][: 1 + i % 4]) for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda call: call[0].predict(call[1]), calls))
    for i, logits in enumerate(got):
        np.testing.assert_array_equal(logits, wanted[i % 9 :][: 1 + i % 4])


@pytest.mark.parametrize('batch', [1, 2, 3, 9])
@pytest.mark.parametrize('threads', [1, 2, 3, 4, 16])
def test_logits_depend_on_the_image_alone(packed, x, wanted, batch, threads):
    engine = Session(packed, threads)
    order = np.random.default_rng(batch).permutation(9)
    got = [engine.predict(x[order[i : i + batch]]) for i in range(0, 9, batch)]
    np.testing.assert_array_equal(np.concatenate(got), wanted[order])


@pytest.mark.parametrize('threads', [0, -1, 10**6, 'x', True, 1.5, 2.0, [2]])
def test_threads_that_are_no_number_of_threads(packed, threads):
    with pytest.raises(ConfigError, match='threads must be a whole number from 1'):
        Session(packed, threads)


def test_threads_may_be_a_numpy_integer(packed):
    assert Session(packed, np.int64(3)).threads == 3


CGROUPS = {
    # Lines of /proc/self/cgroup, files below /sys/fs/cgroup, cores.
    'v2': ('0::/a/b', {'a/b/cpu.max': '150000 100000', 'cpu.max': 'max 100000'}, 2),
    'v2 parent': ('0::/a/b', {'a/cpu.max': '300000 100000', 'a/b/cpu.max': 'max 1'}, 3),
    'v2 container': ('0::/host/id', {'cpu.max': '50000 100000'}, 1),
    'v1': (
        '4:cpu,cpuacct:/a\n3:memory:/m',
        {'cpu/a/cpu.cfs_quota_us': '400000', 'cpu/a/cpu.cfs_period_us': '100000'},
        4,
    ),
    'v1 unlimited': (
        '4:cpu:/',
        {'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'},
        np.inf,
    ),
    'nothing': ('0::/', {}, np.inf),
    'nonsense': ('0::/', {'cpu.max': 'a lot'}, np.inf),
}


@pytest.mark.parametrize('case', CGROUPS)
def test_quota_of_the_control_group(tmp_path, case):
    lines, files, cores = CGROUPS[case]
    files = {'proc/self/cgroup': lines} | {
        f'sys/fs/cgroup/{name}': text for name, text in files.items()
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + '\n')
    assert session._quota(tmp_path) == cores


@linux
def test_default_threads_keep_to_affinity_and_quota(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
    monkeypatch.setattr(engine, '_quota', lambda: np.inf)
    assert default_threads() == 8
    monkeypatch.setattr(engine, '_quota', lambda: 3)
    assert default_threads() == 3
