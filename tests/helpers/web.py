"""A small zoo, and a web server on loopback that misbehaves on demand."""

import contextlib
import json
import ssl
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = 'resnet20_bireal_digits'
#: Several blocks of a download, and no round number.
CONTENT = bytes(range(256)) * 1200 + b'end'
#: Where transfers break: what is read comes in blocks of 64 KiB.
MIDDLE = 1 << 17
#: Seconds that a stalled transfer takes, if nobody hangs up.
STALL = 60


def entry(content=CONTENT, name=NAME, **fields):
    """What an index says of a file."""
    digest = sha256(content).hexdigest()
    return {
        'file': f'{name}-{digest[:8]}.safetensors',
        'bytes': len(content),
        'sha256': digest,
        'config': f'irnet/{name}.py',
        'dataset': 'digits',
        'metrics': {'accuracy/top1': 97.2},
        **fields,
    }


def files(**contents):
    """The files of a zoo by name; contents by name of the model."""
    models = {n: entry(c, n) for n, c in (contents or {NAME: CONTENT}).items()}
    index = json.dumps({'format': 1, 'models': models}).encode()
    packed = {models[n]['file']: c for n, c in (contents or {NAME: CONTENT}).items()}
    return {'index.json': index, **packed}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        web, name = self.server, self.path.lstrip('/')
        web.seen.append((name, self.headers['Range']))
        faults = web.faults.get(name)
        if name not in web.files:
            status(404)(self, b'')
        elif faults:
            faults.pop(0)(self, web.files[name])
        else:
            ranged(self, web.files[name])

    def answer(self, code, **headers):
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace('_', '-'), str(value))
        self.end_headers()

    def log_message(self, *_):
        pass


def ranged(handler, content):
    """No fault: the file, or the part that was asked for."""
    start = int((handler.headers['Range'] or 'bytes=0-')[6:-1])
    headers = {'Content_Length': len(content) - start}
    if start:
        headers['Content_Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
    handler.answer(206 if start else 200, **headers)
    handler.wfile.write(content[start:])


def whole(handler, content):
    """Range is ignored."""
    handler.answer(200, Content_Length=len(content))
    handler.wfile.write(content)


def another_range(handler, content):
    """The range of a file that has grown since."""
    start, end = MIDDLE, len(content)
    handler.answer(
        206,
        Content_Length=end - start + 1,
        Content_Range=f'bytes {start}-{end}/{end + 1}',
    )
    handler.wfile.write(content[start:] + b'x')


def cut(handler, content):
    """The connection ends in the middle."""
    handler.answer(200, Content_Length=len(content))
    handler.wfile.write(content[:MIDDLE])


def cut_unannounced(handler, content):
    """The same, by a server that never said how long the file is."""
    handler.answer(200)
    handler.wfile.write(content[:MIDDLE])


def stall(handler, content):
    """The first part, then nothing."""
    cut(handler, content)
    handler.wfile.flush()
    handler.server.closing.wait(STALL)


def endless(handler, content):
    """No length, and more than there should be."""
    handler.answer(200)
    with contextlib.suppress(OSError):
        for _ in range(10):  # a client that takes it all must not fill the disk
            handler.wfile.write(content)


def status(code, **headers):
    return lambda handler, _: handler.answer(code, Content_Length=0, **headers)


@contextlib.contextmanager
def serve(contents, certificate=None):
    """A server with ``files``, ``faults`` by name, and what it has ``seen``."""
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.handle_error = lambda *_: None  # who hangs up is no news
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.files, server.faults, server.seen = dict(contents), {}, []
        server.closing = threading.Event()
        scheme = 'https' if certificate else 'http'
        server.url = f'{scheme}://127.0.0.1:{server.server_port}/'
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
