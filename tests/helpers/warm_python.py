"""A stand-in for Python that has imported mmirnet: each call is a fork of it.

A tool that runs as its users run it imports PyTorch and OpenMMLab first, which takes
seconds. Here a server imports them once. The stand-in, a program, hands its command
line, folder, environment, network and streams to the server, whose fork runs the
script; the stand-in passes signals on and ends as the script ends. What is about
imports, about what Python reads when it starts, or about kills at a moment needs a
Python of its own.
"""

import array
import atexit
import contextlib
import ctypes
import functools
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

#: What the server imports: what tools and mmirnet itself import when they start.
WARM = ['mmirnet', 'mmirnet.apis', 'mmirnet.analysis', 'mmpretrain.models']

#: The network namespace of a process.
NETWORK = '/proc/self/ns/net'
LENGTH = struct.Struct('!I')
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@functools.cache
def python() -> str:
    """The program that stands in for Python; this one where that cannot be."""
    if not hasattr(os, 'pidfd_open'):
        return sys.executable
    folder = tempfile.TemporaryDirectory(prefix='warm')
    program = Path(folder.name) / 'python'
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f'{folder.name}/socket')
    listener.listen(64)
    program.write_text(
        f'#!{sys.executable} -ISB\n'
        f'import sys\nsys.path.append({str(Path(__file__).parent)!r})\n'
        f'import warm_python\nwarm_python.call({folder.name + "/socket"!r})\n'
    )
    program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(listener.fileno())],
        stdin=subprocess.PIPE,  # its end is ours
        pass_fds=[listener.fileno()],
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )
    listener.close()

    def stop():
        server.communicate()
        folder.cleanup()

    atexit.register(stop)
    return str(program)


def call(path: str) -> None:
    """The stand-in: has the server run its command line, and ends alike."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        about = dict(argv=sys.argv[1:], cwd=os.getcwd(), environ=dict(os.environ))
        data = json.dumps(about).encode()
        network = os.open(NETWORK, os.O_RDONLY)
        files = array.array('i', [0, 1, 2, network])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
        server.sendmsg([LENGTH.pack(len(data))], rights)
        server.sendall(data)
        pid = _received(server)
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = _received(server)
    if code < 0:
        with contextlib.suppress(OSError):  # of SIGKILL, which has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _received(server: socket.socket) -> int:
    data = server.recv(4, socket.MSG_WAITALL)
    if len(data) < 4:
        raise SystemExit('the server of the stand-in for Python has ended')
    return struct.unpack('!i', data)[0]


def _reap(*_) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _serve(listener: socket.socket) -> dict:
    """Waits for calls; returns in the process that is to run one."""
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            os._exit(0)
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if about := _run_beside(connection):
                return about
        connection.close()


def _run_beside(connection: socket.socket) -> dict:
    """Forks what is to run, and has it and its caller end together."""
    size = array.array('i').itemsize
    head, rights, *_ = connection.recvmsg(4, socket.CMSG_LEN(4 * size))
    *streams, network = array.array('i', rights[0][2])
    (length,) = LENGTH.unpack(head)
    about = json.loads(connection.recv(length, socket.MSG_WAITALL))
    pid = os.fork()
    if not pid:
        connection.close()
        _enter(network)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return about
    for file in (*streams, network):
        os.close(file)
    with contextlib.suppress(OSError):
        connection.sendall(struct.pack('!i', pid))
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)  # the caller is gone
    status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(OSError):
        connection.sendall(struct.pack('!i', os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _enter(network: int) -> None:
    """Puts this process into the network of the caller, which may have its own."""
    if not os.path.sameopenfile(network, os.open(NETWORK, os.O_RDONLY)):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(network, 0):
            raise OSError(ctypes.get_errno(), 'cannot enter the network of the caller')
    os.close(network)


def _end(run) -> None:
    """Runs and ends as Python does, without the second that freeing all takes."""
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def _become(about: dict) -> None:
    """Runs a command line of Python in this process."""
    import numpy as np

    np.random.seed()  # as in every new process; Python's own sees to itself
    earlier = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    installed = [p for p in sys.path[1:] if p not in earlier]
    os.environ.clear()
    os.environ.update(about['environ'])
    os.chdir(about['cwd'])
    words = about['argv']
    while words[0] in ('-u', '-B'):
        words.pop(0)
    path = [p for p in os.environ.get('PYTHONPATH', '').split(os.pathsep) if p]
    kind, *rest = words
    first = '' if kind in ('-c', '-m') else os.path.dirname(os.path.realpath(kind))
    sys.path[:] = [first, *path, *installed]
    if kind == '-c':
        code, *sys.argv[1:] = rest
        sys.argv[0] = '-c'
        exec(compile(code, '<string>', 'exec'), vars(sys.modules['__main__']))
    elif kind == '-m':
        sys.argv = rest
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(kind, run_name='__main__')


if __name__ == '__main__':
    import gc
    import importlib

    for name in WARM:
        importlib.import_module(name)
    gc.freeze()
    about = _serve(socket.socket(fileno=int(sys.argv[1])))
    _end(lambda: _become(about))
