/* From a photograph, a drawing or one of scikit-learn's digits to the pixels of a packed
 * network, by the steps in its file, see mmirnet/packed/preparation.py. Sizes and crops
 * are those of Python; resized values may differ by a rounding.
 *
 * An image is { width, height, channels, data }, with data as a packed network takes it.
 */
'use strict';

Object.assign(mmirnet, (() => {
  const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

  // Filters by what they multiply at distance x, and where they end.
  const triangle = { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) };
  const box = { support: 0.5, at: (x) => Number(x > -0.5 && x <= 0.5) };
  const cubic = (a) => ({
    support: 2,
    at(x) {
      const d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? ((d - 5) * d + 8) * d * a - 4 * a : 0;
    },
  });
  const lanczos = (n) => ({
    support: n,
    at: (x) => (Math.abs(x) < n ? sinc(x) * sinc(x / n) : 0),
  });
  const hamming = {
    support: 1,
    at: (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0),
  };
  const FILTERS = {
    cv2: { bilinear: triangle, bicubic: cubic(-0.75), lanczos: lanczos(4) },
    pillow: {
      nearest: box, box, bilinear: triangle, hamming, bicubic: cubic(-0.5), lanczos: lanczos(3),
    },
  };

  // For each pixel of the new side, the old ones that it is a mean of: [place, weight].
  function taps(from, to, { interpolation, library }) {
    const scale = from / to;
    const opencv = library === 'cv2';
    return Array.from({ length: to }, (_, i) => {
      if (opencv && interpolation === 'nearest') return [[Math.floor(i * scale), 1]];
      const [start, end] = [i * scale, (i + 1) * scale];
      const centre = (start + end) / 2;
      // OpenCV looks at the next pixels alone, Pillow at all that there were.
      const stretch = opencv || interpolation === 'nearest' ? 1 : Math.max(scale, 1);
      const filter = FILTERS[library][interpolation];
      const area = interpolation === 'area';
      const reach = area ? scale / 2 : filter.support * stretch;
      const found = [];
      for (let j = Math.floor(centre - reach); j < Math.ceil(centre + reach); ++j) {
        const weight = area
          ? Math.min(j + 1, end) - Math.max(j, start)
          : filter.at((j + 0.5 - centre) / stretch);
        const inside = Math.min(from - 1, Math.max(0, j));
        if (opencv || inside === j) found.push([inside, weight]);
      }
      const sum = found.reduce((total, [, weight]) => total + weight, 0);
      return found.map(([j, weight]) => [j, weight / sum]);
    });
  }

  // The image whose value at (y, x, c) a function gives.
  function make(width, height, like, value) {
    const { channels, data } = like;
    const made = new data.constructor(width * height * channels);
    let at = 0;
    for (let y = 0; y < height; ++y) {
      for (let x = 0; x < width; ++x) {
        for (let c = 0; c < channels; ++c) made[at++] = value(y, x, c);
      }
    }
    return { width, height, channels, data: made };
  }

  const pixel = ({ width, channels, data }, y, x, c) => data[(y * width + x) * channels + c];

  function resized(image, width, height, how) {
    if (width === image.width && height === image.height) return image;
    const columns = taps(image.width, width, how);
    const rows = taps(image.height, height, how);
    const exact = { ...image, data: Float32Array.from(image.data) };
    const mean = (found, value) => found.reduce((sum, [j, weight]) => sum + weight * value(j), 0);
    const narrow = make(width, image.height, exact, (y, x, c) =>
      mean(columns[x], (u) => pixel(exact, y, u, c)));
    const whole = image.data instanceof Uint8Array;
    const round = (v) => (whole ? Math.min(255, Math.max(0, Math.round(v))) : v);
    return make(width, height, image, (y, x, c) =>
      round(mean(rows[y], (v) => pixel(narrow, v, x, c))));
  }

  const cropped = (image, top, left, width, height) =>
    make(width, height, image, (y, x, c) => pixel(image, top + y, left + x, c));

  // Python rounds halves to even.
  function even(value) {
    const rounded = Math.round(value);
    return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
  }

  const within = ({ width, height }, w, h) => {
    const factor = Math.min(
      Math.max(w, h) / Math.max(width, height),
      Math.min(w, h) / Math.min(width, height),
    );
    return [Math.floor(width * factor + 0.5), Math.floor(height * factor + 0.5)];
  };

  // Where a row or column beyond the end takes its values from.
  const BEYOND = {
    edge: (i, size) => Math.min(i, size - 1),
    symmetric: (i, size) => (Math.floor(i / size) % 2 ? size - 1 - (i % size) : i % size),
    reflect(i, size) {
      const period = Math.max(1, 2 * size - 2);
      return Math.min(i % period, period - (i % period));
    },
  };

  function padded(image, height, width, mode, value, top = 0, left = 0) {
    return make(width, height, image, (y, x, c) => {
      const [v, u] = [y - top, x - left];
      if (v >= 0 && u >= 0 && v < image.height && u < image.width) return pixel(image, v, u, c);
      if (mode === 'constant') return value[c % value.length];
      return pixel(image, BEYOND[mode](v, image.height), BEYOND[mode](u, image.width), c);
    });
  }

  const STEPS = {
    resize(image, step) {
      const { width, height } = step;
      const size = step.keep_ratio ? within(image, width, height) : [width, height];
      return resized(image, ...size, step);
    },
    rescale(image, step) {
      const size = [image.width * step.x, image.height * step.y].map((v) => Math.floor(v + 0.5));
      return resized(image, ...(step.keep_ratio ? within(image, ...size) : size), step);
    },
    resize_edge(image, step) {
      const { width, height } = image;
      const { edge, size } = step;
      const byWidth =
        edge === 'width' ||
        (edge === 'short' && width < height) ||
        (edge === 'long' && width > height);
      return byWidth
        ? resized(image, size, Math.floor((size * height) / width), step)
        : resized(image, Math.floor((size * width) / height), size, step);
    },
    center_crop(image, { width, height }) {
      const top = Math.max(0, even((image.height - height) / 2));
      const left = Math.max(0, even((image.width - width) / 2));
      const size = [Math.min(width, image.width - left), Math.min(height, image.height - top)];
      return cropped(image, top, left, ...size);
    },
    efficientnet_crop(image, step) {
      const { width, height } = image;
      const side = (step.size / (step.size + step.padding)) * Math.min(width, height);
      const top = Math.max(0, even((height - side) / 2));
      const left = Math.max(0, even((width - side) / 2));
      const size = [Math.floor(left + side - 1) + 1 - left, Math.floor(top + side - 1) + 1 - top];
      return resized(cropped(image, top, left, ...size), step.size, step.size, step);
    },
    pad(image, step) {
      let sides = [step.height || image.height, step.width || image.width];
      if (step.square) sides = sides.fill(Math.max(image.height, image.width));
      if (step.divisor) sides = sides.map((s) => Math.ceil(s / step.divisor) * step.divisor);
      const size = [Math.max(sides[0], image.height), Math.max(sides[1], image.width)];
      return padded(image, ...size, step.mode, step.value);
    },
    fit(image, { width, height, pad, cover }) {
      const lack = [height - image.height, width - image.width];
      if (lack.every((n) => n >= 0 && n <= pad)) {
        const [top, left] = lack.map((n) => Math.floor(n / 2));
        return padded(image, height, width, 'constant', [0], top, left);
      }
      const scale = cover * Math.max(height / image.height, width / image.width);
      const h = Math.max(height, even(image.height * scale));
      const w = Math.max(width, even(image.width * scale));
      const large = resized(image, w, h, { interpolation: 'bilinear', library: 'pillow' });
      const [top, left] = [Math.floor((h - height) / 2), Math.floor((w - width) / 2)];
      return cropped(large, top, left, width, height);
    },
  };

  /* What `predict` takes, from an RGB image: pixels of the network's size, normalised for
   * a network that was trained on images resized as floats. */
  function prepare(image, input) {
    let prepared = input.order === 'grey' ? grey(image) : image;
    if (input.read.float) prepared = { ...prepared, data: Float32Array.from(prepared.data) };
    for (const step of input.steps) prepared = STEPS[step.op](prepared, step);
    const { width, height, channels } = input;
    if (prepared.width !== width || prepared.height !== height) {
      throw new Error(
        `the image is ${prepared.height}x${prepared.width} when it is prepared, the network ` +
          `takes ${height}x${width} (height x width)`,
      );
    }
    if (!input.read.float) return prepared.data;
    const values = new Float32Array(prepared.data.length);
    for (let c = 0; c < channels; ++c) {
      const from = input.order === 'bgr' ? channels - 1 - c : c;
      const [mean, std] = [input.mean[c], input.std[c]].map(Math.fround);
      for (let i = 0; i < width * height; ++i) {
        values[c * width * height + i] =
          Math.fround(prepared.data[i * channels + from] - mean) / std;
      }
    }
    return values;
  }

  const grey = (image) =>
    make(image.width, image.height, { channels: 1, data: image.data }, (y, x) => {
      const [r, g, b] = [0, 1, 2].map((c) => pixel(image, y, x, c));
      return Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    });

  /* One of scikit-learn's digits, 8x8 numbers from 0 to 16, as the data set `Digits` has
   * it: 32x32 with three channels, with the bits of OpenCV's bilinear interpolation. */
  function digit(values) {
    const pixels = Array.from(values, (v) => even(v * (255 / 16)));
    // Two neighbours of each of the 32 places, and the weight of the second in 1/2048.
    const places = Array.from({ length: 32 }, (_, i) => {
      const eighths = 2 * i - 3;
      const first = Math.floor(eighths / 8);
      const clip = (j) => Math.min(7, Math.max(0, j));
      return [clip(first), clip(first + 1), 256 * (eighths - 8 * first)];
    });
    const row = (v) =>
      places.map(([a, b, w]) => pixels[8 * v + a] * (2048 - w) + pixels[8 * v + b] * w);
    const rows = Array.from({ length: 8 }, (_, v) => row(v));
    const scaled = (value, weight) => ((value >> 4) * weight) >> 16;
    return Uint8Array.from(
      places.flatMap(([a, b, w]) =>
        rows[a].flatMap((above, x) => {
          const value = (scaled(above, 2048 - w) + scaled(rows[b][x], w) + 2) >> 2;
          return [value, value, value];
        })),
    );
  }

  return { prepare, digit };
})());
