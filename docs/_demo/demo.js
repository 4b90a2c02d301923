/* The page: a picture goes in, logits, the time and the bits of every layer come out.
 * `mmirnet.data` holds what docs/_demo/make_demo.py has embedded.
 */
'use strict';

(() => {
  const { data } = mmirnet;
  const PAD = 256; // pixels of the pad
  const STROKE = 26;
  const SAMPLES = 12;
  const LARGEST = 1024; // longer photographs are made smaller before they are prepared
  const MOST = 64; // filters and channels of a picture of weights
  const WIDE = 270; // about the width of a picture of bits
  const COLOURS = [[255, 184, 77], [38, 64, 104]]; // of +1 and -1

  // Of data sets whose images can be drawn.
  const HINTS = {
    digits: 'Draw a digit, choose one of scikit-learn\u2019s below, or drop a photograph here.',
    'Fashion-MNIST': 'Draw a garment, or drop a photograph of one on a black ground here.',
  };
  const PHOTOGRAPHS = 'Drop a photograph of one of the ten classes here.';
  // A shirt in the middle of the pad, for networks that have no samples.
  const SHIRT = 'M92 48 L108 60 L148 60 L164 48 L218 88 L194 124 L178 112 L178 212 L78 212 ' +
    'L78 112 L62 124 L38 88 Z';

  // ------------------------------------------------------------------------
  // Elements.

  function element(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    const { attributes = {}, ...properties } = options;
    Object.assign(made, properties);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const canvas = (width, height, className, label) =>
    element('canvas', {
      width, height, className, attributes: { role: 'img', 'aria-label': label },
    });

  const root = document.getElementById('mmirnet-demo');
  const layersRoot = document.getElementById('mmirnet-layers');
  const networks = element('select', { id: 'demo-network' });
  const facts = element('p', { className: 'demo-facts' });
  const pad = canvas(PAD, PAD, 'demo-pad', 'Drawing pad');
  pad.setAttribute('aria-describedby', 'demo-hint demo-keys');
  const hint = element('p', { className: 'demo-hint', id: 'demo-hint' });
  const keys = element('p', {
    className: 'demo-keys',
    id: 'demo-keys',
    textContent: 'With the keyboard: arrows move the pen, space puts it down and lifts it, ' +
      'delete clears.',
  });
  const clear = element('button', { type: 'button', textContent: 'Clear' });
  const file = element('input', {
    type: 'file', accept: 'image/*', className: 'demo-file', id: 'demo-file',
  });
  const choose = element('label', { className: 'demo-button', htmlFor: 'demo-file' },
    'Open a photograph');
  const samples = element('div', { className: 'demo-samples' });
  const more = element('button', { type: 'button', textContent: 'Other digits' });
  const seen = element('canvas', { className: 'demo-seen' });
  const answer = element('p', { className: 'demo-answer' });
  const table = element('table', { className: 'demo-logits' });
  const time = element('p', { className: 'demo-time' });
  const problem = element('p', { className: 'demo-problem', attributes: { role: 'alert' } });

  const columns = element('div', { className: 'demo-columns' },
    element('div', { className: 'demo-input' },
      pad, hint, element('p', { className: 'demo-buttons' }, clear, file, choose)),
    element('div', { className: 'demo-output' },
      element('div', { attributes: { 'aria-live': 'polite' } }, answer),
      table,
      element('div', { className: 'demo-below' },
        element('figure', {}, seen,
          element('figcaption', { textContent: 'what the network reads' })),
        time)),
    element('div', { className: 'demo-more' }, samples, keys));

  root.replaceChildren(
    element('p', { className: 'demo-choice' },
      element('label', { htmlFor: 'demo-network' }, 'Network '), networks),
    facts,
    problem,
    columns,
  );

  // ------------------------------------------------------------------------
  // The network.

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const opened = {};

  // A packed file is a script of its own: pages opened from a disk may read no others.
  function packedFile(name) {
    return new Promise((done, failed) => {
      const script = element('script', {
        src: new URL(`${name}.js`, data.folder).href,
        onload: () => done(bytes(data.files[name])),
        onerror: () => failed(new Error(`${name}.js cannot be read`)),
      });
      document.head.append(script);
    });
  }

  /* A network by its name in the zoo. */
  function open(name) {
    opened[name] ||= packedFile(name).then((file) => mmirnet.load(file, bytes(data.wasm)));
    return opened[name];
  }

  let network = null;
  let model = null;
  let drawn = false; // whether the pad has a drawing, and no other picture

  async function start(name) {
    let chosen;
    try {
      chosen = await open(name);
    } catch (error) {
      complain(error);
      return;
    }
    if (networks.value !== name) return; // somebody has chosen another one
    network = chosen;
    columns.inert = false;
    time.replaceChildren();
    const before = model;
    model = data.models.find((entry) => entry.name === name);
    const bits = Math.min(...network.layers.map((layer) => layer.bits));
    facts.textContent =
      `1 bit for a weight and ${bits} for an activation in binary layers; a ` +
      `packed file of ${count(Math.round(model.bytes / 1000))} kB; ${model.accuracy.toFixed(1)} % ` +
      `of the test images of ${model.dataset} classified correctly.`;
    hint.textContent = HINTS[model.dataset] || PHOTOGRAPHS;
    const digits = model.dataset === 'digits';
    samples.hidden = !digits;
    const draws = model.dataset in HINTS;
    clear.hidden = keys.hidden = !draws;
    pad.classList.toggle('demo-draws', draws);
    pad.tabIndex = draws ? 0 : -1;
    pad.setAttribute('aria-label', draws ? 'Drawing pad' : 'The photograph');
    showLayers();
    if (before && before.dataset === model.dataset) predict();
    else if (digits) showSample(0);
    else drawShirt();
  }

  function complain(error) {
    problem.textContent = `That did not work: ${error.message}`;
    console.error(error);
  }

  // ------------------------------------------------------------------------
  // The picture: a drawing, a sample or a photograph.

  const ink = pad.getContext('2d', { willReadFrequently: true });
  let picture = () => null; // makes the pixels that the network takes

  function blank() {
    ink.fillStyle = '#000';
    ink.fillRect(0, 0, PAD, PAD);
  }

  function startDrawing() {
    if (!drawn) blank();
    drawn = true;
    picture = drawing;
    Object.assign(ink, {
      strokeStyle: '#fff', fillStyle: '#fff', lineWidth: STROKE, lineCap: 'round', lineJoin: 'round',
    });
  }

  function rgb(context, width, height) {
    const rgba = context.getImageData(0, 0, width, height).data;
    const values = new Uint8Array(3 * width * height);
    for (let i = 0; i < width * height; ++i) values.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
    return { width, height, channels: 3, data: values };
  }

  function drawing() {
    const image = rgb(ink, PAD, PAD);
    return model.dataset === 'digits'
      ? mmirnet.digit(asDigit(image))
      : mmirnet.prepare(image, network.packed.input);
  }

  /* A drawing as scikit-learn's digits were made: its box as large as the image, in 32x32
   * black and white, of which white pixels in blocks of 4x4 are counted. */
  function asDigit({ data: values }) {
    let [left, top, right, bottom] = [PAD, PAD, 0, 0];
    for (let y = 0; y < PAD; ++y) {
      for (let x = 0; x < PAD; ++x) {
        if (values[3 * (y * PAD + x)] < 128) continue;
        [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
        [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
      }
    }
    const counts = new Uint8Array(64);
    if (right <= left) return counts;
    const side = Math.max(right - left, bottom - top);
    const [x0, y0] = [(left + right - side) / 2, (top + bottom - side) / 2];
    for (let y = 0; y < 32; ++y) {
      for (let x = 0; x < 32; ++x) {
        const [u, v] = [x0 + ((x + 0.5) * side) / 32, y0 + ((y + 0.5) * side) / 32].map(Math.floor);
        const inside = u >= 0 && v >= 0 && u < PAD && v < PAD;
        if (inside && values[3 * (v * PAD + u)] >= 128) counts[8 * (y >> 2) + (x >> 2)] += 1;
      }
    }
    return counts;
  }

  const sampleValues = (index) => data.digits.values.subarray(64 * index, 64 * index + 64);

  function showSample(index) {
    const values = sampleValues(index);
    drawn = false;
    ink.imageSmoothingEnabled = false;
    ink.drawImage(greyPicture(values, 8), 0, 0, PAD, PAD);
    picture = () => mmirnet.digit(values);
    predict();
  }

  function greyPicture(values, side) {
    const made = element('canvas', { width: side, height: side });
    paint(made, (y, x) => GREYS[Math.round((255 / 16) * values[side * y + x])]);
    return made;
  }

  function drawShirt() {
    drawn = false;
    startDrawing();
    blank();
    ink.fillStyle = '#bbb';
    if (model.dataset === 'Fashion-MNIST') ink.fill(new Path2D(SHIRT));
    predict();
  }

  async function showPhotograph(blob) {
    try {
      const { order, read } = network.packed.input;
      if (order === null) throw new Error('the network takes no image files');
      const imageOrientation = read.upright ? 'from-image' : 'none';
      const bitmap = await createImageBitmap(blob, { imageOrientation });
      const factor = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
      const [width, height] = [bitmap.width, bitmap.height].map((side) =>
        Math.max(1, Math.round(factor * side)));
      const context = element('canvas', { width, height }).getContext('2d');
      context.imageSmoothingQuality = 'high';
      context.drawImage(bitmap, 0, 0, width, height);
      const image = rgb(context, width, height);
      picture = () => mmirnet.prepare(image, network.packed.input);
      drawn = false;
      ink.imageSmoothingEnabled = true;
      blank();
      const cover = PAD / Math.min(width, height);
      const [w, h] = [cover * width, cover * height];
      ink.drawImage(context.canvas, (PAD - w) / 2, (PAD - h) / 2, w, h);
      predict();
    } catch (error) {
      complain(error);
    }
  }

  // ------------------------------------------------------------------------
  // Drawing with mouse, finger, pen and keyboard.

  let pen = null; // where it is while it is down
  let cursor = [PAD / 2, PAD / 2]; // of the keyboard
  let waiting = false;

  function place(event) {
    const box = pad.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map((v) => (v * PAD) / box.width);
  }

  function line(from, to) {
    startDrawing();
    ink.beginPath();
    ink.moveTo(...from);
    ink.lineTo(...to);
    ink.stroke();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      predict();
    });
  }

  const draws = () => !clear.hidden;

  pad.addEventListener('pointerdown', (event) => {
    if (!draws() || event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    pen = place(event);
    line(pen, pen);
  });
  pad.addEventListener('pointermove', (event) => {
    if (!pen || !pad.hasPointerCapture(event.pointerId)) return;
    const next = place(event);
    line(pen, next);
    pen = next;
  });
  for (const end of ['pointerup', 'pointercancel']) {
    pad.addEventListener(end, () => {
      pen = null;
    });
  }

  const MOVES = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  let down = false;

  pad.addEventListener('keydown', (event) => {
    if (!draws()) return;
    const move = MOVES[event.key];
    if (move) {
      const next = cursor.map((v, i) => Math.min(PAD, Math.max(0, v + move[i])));
      if (down) line(cursor, next);
      cursor = next;
    } else if (event.key === ' ') {
      down = !down;
      if (down) line(cursor, cursor);
    } else if (event.key === 'Delete' || event.key === 'Backspace') {
      clear.click();
    } else {
      return;
    }
    event.preventDefault();
    showPen();
  });
  pad.addEventListener('blur', () => {
    down = false;
    penMark.hidden = true;
  });

  const penMark = element('span', { className: 'demo-pen', hidden: true });
  const padBox = element('div', { className: 'demo-padbox' });
  pad.replaceWith(padBox);
  padBox.append(pad, penMark);

  function showPen() {
    penMark.hidden = false;
    penMark.classList.toggle('demo-down', down);
    penMark.style.left = `${(100 * cursor[0]) / PAD}%`;
    penMark.style.top = `${(100 * cursor[1]) / PAD}%`;
  }

  clear.addEventListener('click', () => {
    drawn = false;
    startDrawing();
    blank();
    predict();
  });

  file.addEventListener('change', () => {
    if (file.files.length) showPhotograph(file.files[0]);
    file.value = '';
  });
  for (const name of ['dragover', 'drop']) {
    root.addEventListener(name, (event) => event.preventDefault());
  }
  root.addEventListener('drop', (event) => {
    const [dropped] = event.dataTransfer.files;
    if (dropped) showPhotograph(dropped);
    else complain(new Error('what was dropped is no file'));
  });

  let firstSample = 0;

  function showSamples() {
    const buttons = Array.from({ length: SAMPLES }, (_, i) => {
      const index = (firstSample + i) % data.digits.labels.length;
      const label = `a ${data.digits.labels[index]} of scikit-learn\u2019s`;
      return element('button', {
        type: 'button',
        className: 'demo-sample',
        title: label,
        onclick: () => showSample(index),
        attributes: { 'aria-label': label },
      }, greyPicture(sampleValues(index), 8));
    });
    samples.replaceChildren(...buttons, more);
  }

  more.addEventListener('click', () => {
    firstSample += SAMPLES;
    showSamples();
    more.focus();
  });

  // ------------------------------------------------------------------------
  // What comes out.

  // A colour as the four bytes of a pixel; 0 is none.
  const opaque = (red, green, blue) => new Uint32Array(
    Uint8ClampedArray.of(red, green, blue, 255).buffer)[0];
  const [PLUS, MINUS] = COLOURS.map((colour) => opaque(...colour));
  const GREYS = Uint32Array.from({ length: 256 }, (_, i) => opaque(i, i, i));

  // Colours a canvas, pixel by pixel.
  function paint(target, colour) {
    const { width, height } = target;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    let at = 0;
    for (let y = 0; y < height; ++y) {
      for (let x = 0; x < width; ++x) pixels[at++] = colour(y, x);
    }
    target.getContext('2d').putImageData(image, 0, 0);
  }

  function scoresOf(logits, head) {
    if (head.scores === 'sigmoid') return Array.from(logits, (v) => 1 / (1 + Math.exp(-v)));
    const most = Math.max(...logits);
    const powers = Array.from(logits, (v) => Math.exp(v - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((v) => v / sum);
  }

  const className = (i) => (network.packed.classes ? network.packed.classes[i] : `class ${i}`);

  function predict() {
    problem.textContent = '';
    try {
      const pixels = picture();
      const logits = network.predict(pixels);
      showAnswer(logits);
      showSeen(pixels);
      drawActivations();
      measure(pixels);
    } catch (error) {
      complain(error);
    }
  }

  function showAnswer(logits) {
    const scores = scoresOf(logits, network.packed.head);
    const best = scores.indexOf(Math.max(...scores));
    answer.replaceChildren(
      element('strong', { textContent: className(best) }),
      element('span', { textContent: `${(100 * scores[best]).toFixed(1)} %` }),
    );
    showLogits(logits, scores, best);
  }

  function showLogits(logits, scores, best) {
    const heads = ['class', 'score', 'logit'].map((textContent) =>
      element('th', { textContent, attributes: { scope: 'col' } }));
    const rows = scores.map((score, i) => {
      const bar = element('span', { className: 'demo-bar' });
      bar.style.width = `${100 * score}%`;
      return element('tr', { className: i === best ? 'demo-best' : '' },
        element('th', { textContent: className(i), attributes: { scope: 'row' } }),
        element('td', { className: 'demo-score', title: `${(100 * score).toFixed(1)} %` }, bar),
        element('td', { textContent: logits[i].toFixed(2).replace('-', '\u2212') }));
    });
    table.replaceChildren(element('thead', {}, element('tr', {}, ...heads)),
      element('tbody', {}, ...rows));
  }

  function showSeen(pixels) {
    const { channels, width, height, mean, std, order } = network.packed.input;
    Object.assign(seen, { width, height });
    const floats = pixels instanceof Float32Array;
    paint(seen, (y, x) =>
      opaque(...[0, 1, 2].map((c) => {
        if (!floats) return pixels[(y * width + x) * channels + (c % channels)];
        const from = order === 'bgr' ? 2 - c : c % channels;
        return pixels[(from * height + y) * width + x] * std[from] + mean[from];
      })));
  }

  let timer = 0;

  // The median of runs in a quiet moment: the first ones are still being compiled.
  function measure(pixels) {
    clearTimeout(timer);
    const measured = network;
    timer = setTimeout(() => {
      const times = [];
      const start = performance.now();
      while (times.length < 3 || performance.now() - start < 100) {
        const before = performance.now();
        measured.predict(pixels);
        times.push(performance.now() - before);
      }
      times.sort((a, b) => a - b);
      const median = times[Math.floor(times.length / 2)];
      time.replaceChildren(
        element('strong', { textContent: `${median.toFixed(1)} ms` }),
        ` an image, on one core (median of ${times.length})`,
      );
    }, 250);
  }

  // ------------------------------------------------------------------------
  // The bits.

  let pictures = []; // of activations: a function each that draws the last image's

  // Tiles of `height` x `width` in rows and columns, a pixel apart.
  function mosaic(rows, columns, height, width, label) {
    const made = canvas(columns * (width + 1) - 1, rows * (height + 1) - 1, 'demo-bits', label);
    made.style.width = `${made.width * Math.max(1, Math.floor(WIDE / made.width))}px`;
    const draw = (colour) =>
      paint(made, (y, x) => {
        const [row, column] = [Math.floor(y / (height + 1)), Math.floor(x / (width + 1))];
        const [v, u] = [y % (height + 1), x % (width + 1)];
        return v < height && u < width ? colour(row, column, v, u) : 0;
      });
    return [made, draw];
  }

  const percent = (part, whole) => `${((100 * part) / whole).toFixed(0)}\u00a0%`;
  const count = (number) => number.toLocaleString('en');
  const colourOf = (bit) => (bit ? PLUS : MINUS);

  function weightPicture({ name, signs }) {
    const { filters, channels, height, width, bit } = signs;
    const [rows, columns] = [Math.min(MOST, filters), Math.min(MOST, channels)];
    const [made, draw] = mosaic(rows, columns, height, width, `Weights of ${name}`);
    draw((o, c, v, u) => colourOf(bit(o, v, u, c)));
    const total = filters * channels * height * width;
    let plus = 0;
    for (let o = 0; o < filters; ++o) {
      for (let c = 0; c < channels; ++c) {
        for (let v = 0; v < height; ++v) {
          for (let u = 0; u < width; ++u) plus += bit(o, v, u, c);
        }
      }
    }
    const cut = rows < filters || columns < channels
      ? `; shown are ${rows} filters and ${columns} channels` : '';
    const caption = `${filters} filters of ${channels} channels, ${height}\u00d7${width}: ` +
      `${count(total)} bits, ${percent(plus, total)} of them +1${cut}`;
    return element('figure', {}, made, element('figcaption', { textContent: caption }));
  }

  function activationPicture(layer) {
    const [channels, height, width] = layer.shape;
    const columns = Math.min(channels, 2 ** Math.ceil(Math.log2(channels) / 2));
    const rows = Math.ceil(channels / columns);
    const [made, draw] = mosaic(rows, columns, height, width, `Activations of ${layer.name}`);
    const caption = element('figcaption');
    const total = channels * height * width;
    const what = `${channels} channels of ${height}\u00d7${width}: ${count(total)}`;
    pictures.push(() => {
      const value = network.activations(layer);
      let [plus, low, high] = [0, Infinity, -Infinity];
      for (let c = 0; c < channels; ++c) {
        for (let y = 0; y < height; ++y) {
          for (let x = 0; x < width; ++x) {
            const found = value(c, y, x);
            plus += found;
            low = Math.min(low, found);
            high = Math.max(high, found);
          }
        }
      }
      const grey = (v) => GREYS[Math.round((255 * (v - low)) / (high - low || 1))];
      const colour = layer.bits === 1 ? colourOf : grey;
      draw((row, column, y, x) => {
        const c = row * columns + column;
        return c < channels ? colour(value(c, y, x)) : 0;
      });
      caption.textContent = layer.bits === 1
        ? `${what} bits, ${percent(plus, total)} of them +1`
        : `${what} numbers of ${layer.bits} bits, from ${low.toFixed(2)} (black) to ${high.toFixed(2)}`;
    });
    return element('figure', {}, made, caption);
  }

  function showLayers() {
    pictures = [];
    const [plus, minus] = COLOURS.map((colour) => {
      const made = element('span', { className: 'demo-swatch' });
      made.style.background = `rgb(${colour})`;
      return made;
    });
    const legend = element('p', { className: 'demo-legend' }, plus, ' +1 ', minus, ' \u22121');
    const layers = network.layers.map((layer, i) =>
      element('section', { className: 'demo-layer' },
        element('h3', { textContent: `Binary layer ${i + 1}` }),
        element('div', { className: 'demo-pictures' },
          element('div', {}, element('h4', { textContent: 'what comes in' }),
            activationPicture(layer)),
          element('div', {}, element('h4', { textContent: 'its weights' }),
            weightPicture(layer)))));
    layersRoot.replaceChildren(legend, ...layers);
  }

  const drawActivations = () => pictures.forEach((draw) => draw());

  // ------------------------------------------------------------------------

  data.digits.values = bytes(data.digits.values);
  for (const dataset of new Set(data.models.map((entry) => entry.dataset))) {
    const names = data.models.filter((entry) => entry.dataset === dataset);
    networks.append(element('optgroup', { label: dataset },
      ...names.map(({ name }) => element('option', { value: name, textContent: name }))));
  }
  networks.addEventListener('change', () => start(networks.value));
  showSamples();
  blank();
  columns.inert = true; // until there is a network
  start(networks.value);

  mmirnet.open = open;
  mmirnet.sample = (index) => mmirnet.digit(sampleValues(index));
})();
