"""Takes pictures of the page that runs networks, and times it.

Usage: python tests/by_hand/demo_pictures.py SITE FOLDER, where SITE is a built
documentation. Two widths, light and dark, of the top and of the bits of the layers.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'helpers'))
from browser import browser

TIMES = """(async () => {
    const network = await mmirnet.open(NAME);
    const pixels = mmirnet.sample(0);
    const times = Array.from({ length: 300 }, () => {
        const start = performance.now();
        network.predict(pixels);
        return performance.now() - start;
    });
    return times.sort((a, b) => a - b);
})()"""


def main() -> None:
    """Reads the command line."""
    site, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, browser(profile) as page:
        for width in (400, 1200):
            for dark in (False, True):
                page.look(width, dark)
                page.open((site / 'demo.html').resolve().as_uri())
                page.run('new Promise((done) => setTimeout(done, 1500))')
                for place in ('demo', 'layers'):
                    page.run(
                        f"document.getElementById('mmirnet-{place}').scrollIntoView()"
                    )
                    shade = 'dark' if dark else 'light'
                    page.screenshot(folder / f'{place}-{width}-{shade}.png')
        for name in page.run('mmirnet.data.models.map((model) => model.name)'):
            if 'w1a32' not in name and name.endswith('digits'):
                times = page.run(TIMES.replace('NAME', repr(name)))
                print(f'{name}: median {times[150]:.2f} ms, fastest {times[0]:.2f} ms')
        for problem in page.problems():
            print(problem)


if __name__ == '__main__':
    main()
