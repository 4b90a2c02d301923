"""A page in headless Chromium, driven through the pipe of its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from threading import Timer

import pytest
from small_run import PATIENCE

_ARGUMENTS = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--no-first-run',
    '--remote-debugging-pipe',
]

_COMPLAINTS = (
    'Runtime.exceptionThrown',
    'Runtime.consoleAPICalled',
    'Log.entryAdded',
)


def chromium():
    """The command, or a reason why the test is skipped."""
    found = shutil.which('chromium') or shutil.which('chromium-browser')
    return found or pytest.skip('there is no chromium; apt-get install chromium')


class Page:
    """A tab: what it is told with :meth:`call` are commands of the protocol."""

    def __init__(self, commands, replies):
        self._commands, self._replies = commands, replies
        self._number, self._session = 0, None
        self.events = []
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def call(self, method, **parameters):
        """Sends a command and waits for its answer; keeps the events before it."""
        self._number += 1
        message = dict(id=self._number, method=method, params=parameters)
        if self._session:
            message['sessionId'] = self._session
        self._commands.write(json.dumps(message).encode() + b'\0')
        self._commands.flush()
        while (reply := self._read()).get('id') != self._number:
            self.events.append(reply)
        assert 'error' not in reply, reply
        return reply['result']

    def _read(self):
        text = bytearray()
        while (byte := self._replies.read(1)) != b'\0':
            assert byte, 'chromium has ended'
            text += byte
        return json.loads(text)

    def open(self, url):
        """Loads a page and waits until it has been loaded."""
        self.events.clear()
        self.call('Page.navigate', url=url)
        while not any(e.get('method') == 'Page.loadEventFired' for e in self.events):
            self.events.append(self._read())

    def run(self, script):
        """The value of an expression; of a promise, what becomes of it."""
        result = self.call(
            'Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True
        )
        assert 'exceptionDetails' not in result, result['exceptionDetails']
        return result['result'].get('value')

    def problems(self):
        """Errors and warnings that the page has logged."""
        self.run('0')  # what was logged before it has come
        return [
            event['params'] for event in self.events if event['method'] in _COMPLAINTS
        ]

    def requests(self):
        """Addresses that the page has asked for."""
        return [
            event['params']['request']['url']
            for event in self.events
            if event['method'] == 'Network.requestWillBeSent'
        ]

    def look(self, width, dark=False):
        """Gives the page a width, and a reader who prefers it light or dark."""
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        self.call('Emulation.setEmulatedMedia', features=[scheme])
        size = dict(width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setDeviceMetricsOverride', **size)

    def screenshot(self, path):
        """Writes what a reader sees as PNG."""
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot')['data']))


@contextmanager
def browser(folder):
    """A :class:`Page` of a browser whose profile is in a folder."""
    command = chromium()
    (ours_in, theirs_out), (theirs_in, ours_out) = os.pipe(), os.pipe()

    def place_pipes():  # the browser reads from 3 and writes to 4
        sources = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(sources[0], 3)
        os.dup2(sources[1], 4)

    process = subprocess.Popen(
        [command, *_ARGUMENTS, f'--user-data-dir={folder}'],
        preexec_fn=place_pipes,
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    # Who waits for a browser that hangs then finds that it has ended.
    patience = Timer(PATIENCE, process.kill)
    patience.start()
    with open(ours_out, 'wb') as commands, open(ours_in, 'rb') as replies:
        try:
            yield Page(commands, replies)
        finally:
            patience.cancel()
            process.kill()
            process.wait()
