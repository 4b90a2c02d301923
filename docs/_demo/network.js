/* Runs packed files in WebAssembly: what mmirnet/packed/format.py, mmirnet/packed/ops,
 * mmirnet/runtime/plan.py and mmirnet/runtime/session.py do in Python, for files that
 * mmirnet.packed.read has checked. Names are theirs. Every number that is computed here
 * is rounded to float32 as numpy rounds it, so that the logits have the same bits.
 *
 *   const network = await mmirnet.load(bytes of a packed file, bytes of the runtime);
 *   const logits = network.predict(pixels);  // uint8, height x width x channels
 */
'use strict';

const mmirnet = (() => {
  // As in mmirnet/runtime/plan.py.
  const ALIGNMENT = 64;
  const GAP = 256;
  const FLOAT_LANES = 16;
  const WORD = 64;
  const MAX_BINARY_KERNEL = 31; // as in mmirnet/packed/limits.py
  const VERSIONS = [1, 2, 3, 4];
  const SOFTMAX = { scores: 'softmax', threshold: null, topk: null };

  const roundUp = (value, unit) => Math.ceil(value / unit) * unit;
  const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
  const f32 = (values) => Float32Array.from(values);
  const some = (array, test) => array !== undefined && array.some(test);

  // ------------------------------------------------------------------------
  // The packed file, see mmirnet/packed/format.py.

  const READ = {
    F32: (data) => new Float32Array(data),
    I8: (data) => new Int8Array(data),
    U64: (data) => new Uint8Array(data), // signs stay bytes, the first bit lowest
    F16: (data) => Float32Array.from(new Uint16Array(data), half),
    BF16: (data) => {
      const bits = Uint32Array.from(new Uint16Array(data), (half) => half << 16);
      return new Float32Array(bits.buffer);
    },
  };

  function half(bits) {
    const sign = bits >> 15 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1024 + fraction) * 2 ** (exponent - 25);
  }

  /* The network in the bytes of a packed file: its `input`, `graph`, `classes`, `head`,
   * the `tensors` by name, and the `shapes` (channels, height, width) of all values. */
  function read(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const start = 8 + Number(view.getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
    const packed = JSON.parse(header.__metadata__.mmirnet);
    if (!VERSIONS.includes(packed.version)) {
      throw new Error(`version ${packed.version} of packed files is not one of ${VERSIONS}`);
    }
    if (packed.version === 1) {
      packed.head = SOFTMAX;
      Object.assign(packed.input, preparation(packed.input));
    }
    packed.tensors = {};
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      const [begin, end] = entry.data_offsets;
      const values = READ[entry.dtype](bytes.slice(start + begin, start + end).buffer);
      packed.tensors[name] = Object.assign(values, { shape: entry.shape });
    }
    const { channels, height, width } = packed.input;
    packed.shapes = { input: [channels, height, width] };
    for (const op of packed.graph) {
      if (!OPERATIONS[op.op]) throw new Error(`unknown operation '${op.op}'`);
      packed.shapes[op.dst] = OPERATIONS[op.op].shape(...ask(packed, op));
    }
    return packed;
  }

  // How files of version 1 say that images are prepared: not at all.
  function preparation({ channels, height, width }) {
    const order = { 3: 'rgb', 1: 'grey' }[channels] || null;
    const [pad, cover] = Math.max(height, width) <= 64 ? [4, 1] : [0, 8 / 7];
    const read = { library: 'cv2', upright: true, float: false };
    return { order, read, steps: order ? [{ op: 'fit', width, height, pad, cover }] : [] };
  }

  // What an operation is asked with: its fields, shapes of its inputs, its tensors.
  function ask(packed, op) {
    return [op, op.src.map((name) => packed.shapes[name]), tensorsOf(packed, op)];
  }

  const ROLES = [
    'weight', 'signs', 'exponent', 'scale', 'threshold', 'offset', 'affine_input',
    'bias', 'affine', 'negative', 'positive', 'weight_int8', 'table',
  ];

  function tensorsOf(packed, op) {
    const names = ROLES.map((role) => [role, packed.tensors[`${op.dst}.${role}`]]);
    return Object.fromEntries(names.filter(([, tensor]) => tensor !== undefined));
  }

  // ------------------------------------------------------------------------
  // The operations, see mmirnet/packed/ops: which shape each gives, and its `lower`.

  function geometry(fields, kernel) {
    const sides = (value, count) => (Array.isArray(value) ? value : Array(count).fill(value));
    return {
      kernel: kernel || sides(fields.kernel, 2),
      stride: sides(fields.stride, 2),
      padding: sides(fields.padding, 4),
      dilation: sides(fields.dilation || 1, 2),
      groups: fields.groups || 1,
    };
  }

  // The window of a linear layer: the image.
  function whole([, height, width]) {
    return geometry({ stride: 1, padding: 0 }, [height, width]);
  }

  function isSquare(window) {
    const sides = [window.kernel, window.stride, window.padding];
    const alike = sides.every((values) => new Set(values).size === 1);
    return alike && window.dilation.every((d) => d === 1) && window.groups === 1;
  }

  function outputSize([, height, width], window) {
    const [top, left, bottom, right] = window.padding;
    const side = (size, i) => {
      const extent = window.dilation[i] * (window.kernel[i] - 1) + 1;
      return Math.floor((size - extent) / window.stride[i]) + 1;
    };
    return [side(height + top + bottom, 0), side(width + left + right, 1)];
  }

  const same = (fields, [shape]) => shape;
  const pooled = (fields, [shape]) => [shape[0], ...outputSize(shape, geometry(fields))];
  const clamp = (low, high) => ({ kind: 'clamp', low, high });
  const kernel = (name, options) => ({ kind: 'kernel', name, args: [], fuses: false, ...options });

  const multiply = (window, fields, tensors) => ({
    kind: 'product',
    window,
    binarize: fields.binarize_input === true,
    threshold: some(tensors.threshold, (v) => v !== 0) ? tensors.threshold : null,
  });

  // Of 8-bit integers, whose sums are exact.
  const multiplyBytes = (window, fields) => ({
    kind: 'byte product',
    window,
    pixels: fields.op === 'pixel_conv2d',
    args: [fields.input_scale ?? 1, fields.zero_point ?? 0],
  });

  const weightOf = ({ weight, weight_int8: bytes }) => weight || bytes;
  const convWindow = (fields, tensors) => geometry(fields, weightOf(tensors).shape.slice(2));

  const convolution = (how) => ({
    shape: (fields, [shape], tensors) => [
      weightOf(tensors).shape[0],
      ...outputSize(shape, convWindow(fields, tensors)),
    ],
    lower: (fields, inputs, tensors) => how(convWindow(fields, tensors), fields, tensors),
  });

  const binaryConvolution = (how) => ({
    shape: (fields, [shape], { signs }) => [
      signs.shape[0],
      ...outputSize(shape, geometry(fields)),
    ],
    lower: (fields, inputs, tensors) => how(geometry(fields), fields, tensors),
  });

  const linear = (how) => ({
    shape: (fields, inputs, tensors) => [(weightOf(tensors) || tensors.signs).shape[0], 1, 1],
    lower: (fields, [shape], tensors) => how(whole(shape), fields, tensors),
  });

  const OPERATIONS = {
    add: { shape: same, lower: () => ({ kind: 'sum' }) },
    affine: {
      shape: same,
      lower: (fields, [shape], { affine }) => ({
        kind: 'affine',
        slope: affine.subarray(0, shape[0]),
        offset: affine.subarray(shape[0]),
      }),
    },
    average_pool: {
      shape: (fields, [shape]) => [shape[0], 1, 1],
      lower: (fields, [shape]) => kernel('average_pool', { window: whole(shape), args: [0] }),
    },
    avg_pool2d: {
      shape: pooled,
      lower: (fields) =>
        kernel('average_pool', { window: geometry(fields), args: [Number(fields.include_pad)] }),
    },
    binary_conv2d: binaryConvolution(multiply),
    binary_conv2d_int8: binaryConvolution(multiplyBytes),
    binary_linear: linear(multiply),
    clamp: {
      shape: same,
      lower: ({ low, high }) => clamp(low ?? -Infinity, high ?? Infinity),
    },
    conv2d: convolution(multiply),
    conv2d_int8: convolution(multiplyBytes),
    flatten: { shape: same, lower: () => ({ kind: 'alias' }) },
    hardtanh: { shape: same, lower: () => clamp(-1, 1) },
    linear: linear(multiply),
    linear_int8: linear(multiplyBytes),
    max_pool2d: {
      shape: pooled,
      lower: (fields) => kernel('max_pool', { window: geometry(fields), fuses: true }),
    },
    pad_shortcut: {
      shape: ({ stride, before, after }, [[channels, height, width]]) => [
        before + channels + after,
        Math.ceil(height / stride),
        Math.ceil(width / stride),
      ],
      lower: ({ stride, before }) => kernel('shortcut', { args: [stride, before] }),
    },
    pixel_conv2d: convolution(multiplyBytes),
    prelu: {
      shape: same,
      lower: (fields, [shape], { negative, positive }) => ({
        kind: 'slopes',
        negative,
        positive: positive || new Float32Array(shape[0]).fill(1),
      }),
    },
    relu: { shape: same, lower: () => clamp(0, Infinity) },
    scale: {
      shape: same,
      lower: ({ factor, offset }, [shape]) => ({
        kind: 'affine',
        slope: new Float32Array(shape[0]).fill(factor),
        offset: new Float32Array(shape[0]).fill(offset),
      }),
    },
    vector: {
      shape: (fields, [shape]) => [product(shape), 1, 1],
      lower: (fields, [[, height, width]]) =>
        height * width === 1 ? { kind: 'alias' } : kernel('vector'),
    },
  };

  // ------------------------------------------------------------------------
  // Weights, see mmirnet/packed/ops/binary.py and `_weight` of the session.

  /* The signs of a binary layer: `bit(filter, row, column, channel)`, and the sides of a
   * filter. A linear layer has them in the order (channel, row, column). */
  function signsOf(packed, op) {
    const [shape] = op.src.map((name) => packed.shapes[name]);
    const { signs } = tensorsOf(packed, op);
    const linear = op.op === 'binary_linear';
    const window = linear ? whole(shape) : geometry(op);
    const [height, width] = window.kernel;
    const channels = shape[0] / window.groups;
    const index = linear
      ? (v, u, c) => (c * height + v) * width + u
      : (v, u, c) => (v * width + u) * channels + c;
    const [filters, words] = signs.shape;
    const bit = (o, v, u, c) => {
      const at = index(v, u, c);
      return (signs[o * words * 8 + (at >> 3)] >> (at & 7)) & 1;
    };
    return { filters, height, width, channels, bit };
  }

  // Fills an array in the order (filter, row, column, channel).
  function eachWeight({ filters, height, width, channels }, put) {
    let at = 0;
    for (let o = 0; o < filters; ++o) {
      for (let v = 0; v < height; ++v) {
        for (let u = 0; u < width; ++u) {
          for (let c = 0; c < channels; ++c) put(at++, o, v, u, c);
        }
      }
    }
  }

  // The kernels start a word with each position.
  function packedSigns(packed, op) {
    const signs = signsOf(packed, op);
    const pixel = (WORD / 8) * Math.ceil(signs.channels / WORD);
    const bytes = new Uint8Array(signs.filters * signs.height * signs.width * pixel);
    eachWeight(signs, (at, o, v, u, c) => {
      const position = (o * signs.height + v) * signs.width + u;
      bytes[position * pixel + (c >> 3)] |= signs.bit(o, v, u, c) << (c & 7);
    });
    return bytes;
  }

  // Weights of a float convolution as (out, height, width, in).
  function floatWeights(packed, op) {
    const tensors = tensorsOf(packed, op);
    if (tensors.signs) {
      const signs = signsOf(packed, op);
      const { exponent, scale, offset } = tensors;
      const affine = offset && !op.binarize_input;
      const weight = new Float32Array(
        signs.filters * signs.height * signs.width * signs.channels,
      );
      eachWeight(signs, (at, o, v, u, c) => {
        const value = (2 * signs.bit(o, v, u, c) - 1) * (exponent ? 2 ** exponent[o] : 1);
        weight[at] = affine ? Math.fround(value * scale[o]) + offset[o] : value;
      });
      return weight;
    }
    return transposed(packed, op, tensors.weight);
  }

  // The filters of a file as (out, height, width, in).
  function transposed(packed, op, weight) {
    const flat = weight.shape.length === 2; // of a linear layer, (C, H, W) in a row
    const [channels, height, width] = flat ? packed.shapes[op.src[0]] : weight.shape.slice(1);
    const made = new weight.constructor(weight.length);
    eachWeight({ filters: weight.shape[0], height, width, channels }, (at, o, v, u, c) => {
      made[at] = weight[((o * channels + c) * height + v) * width + u];
    });
    return made;
  }

  // Weights of 8 bits, scales, what is added, and its classes of rows and columns.
  function byteWeights(packed, step) {
    const op = step.operation;
    const { signs, weight_int8: weight, scale, bias, table } = tensorsOf(packed, op);
    let values;
    if (signs) {
      const { filters, height, width, channels, bit } = signsOf(packed, op);
      values = new Int8Array(filters * height * width * channels);
      eachWeight({ filters, height, width, channels }, (at, o, v, u, c) => {
        values[at] = 2 * bit(o, v, u, c) - 1;
      });
    } else {
      values = transposed(packed, op, weight);
    }
    const classes = [0, 1].map((side) =>
      (table
        ? classesOf(packed.shapes.input, step.window, step.shape, side)
        : new Uint32Array(step.shape[1 + side])));
    return [values, scale, table || bias || new Float32Array(scale.length), ...classes];
  }

  // Outputs of a class have the same part of the window inside of the image.
  function classesOf(image, window, output, side) {
    const parts = new Map();
    return Uint32Array.from({ length: output[1 + side] }, (_, i) => {
      const start = i * window.stride[side] - window.padding[side];
      const end = Math.min(window.kernel[side], image[1 + side] - start);
      const part = `${Math.max(0, -start)} ${end}`;
      if (!parts.has(part)) parts.set(part, parts.size);
      return parts.get(part);
    });
  }

  // ------------------------------------------------------------------------
  // The plan, see mmirnet/runtime/plan.py.

  const key = (threshold) =>
    threshold && new Uint32Array(Float32Array.from(threshold).buffer).join();

  const newStep = (kind, source, output, shape, options) => ({
    kind, source, output, shape,
    window: null, operation: null, args: [], fuses: true, affine: null, residual: null,
    before: null, slopes: null, after: null, clamp: null, floats: false, bits: false,
    threshold: null, ...options,
  });

  const activates = (step) => Boolean(step.before || step.slopes || step.after);

  // The steps so far, to which the operations of a graph are added in order.
  class Fusion {
    constructor(packed) {
      this.packed = packed;
      this.readers = {};
      for (const name of packed.graph.flatMap((op) => op.src)) {
        this.readers[name] = (this.readers[name] || 0) + 1;
      }
      this.steps = [];
      this.madeBy = {}; // value -> its step
      this.alias = { input: 'input' };
      this.signs = new Map(); // what `derived` made
    }

    take(op, lowered) {
      const output = op.dst;
      const sources = op.src.map((name) => this.alias[name]);
      const [source] = sources;
      this.alias[output] = output;
      const shape = this.packed.shapes[output];
      if (lowered.kind === 'alias') {
        this.alias[output] = source;
        this.readers[source] += (this.readers[output] || 0) - 1;
      } else if (lowered.kind === 'affine') {
        let step = this.openStep(source) || this.newMap(source, output);
        if (!this.takeAffine(step, lowered)) {
          step = this.newMap(source, output);
          step.affine = lowered;
        }
        this.extend(step, output);
      } else if (lowered.kind === 'slopes') {
        let step = this.openStep(source);
        if (!step || step.slopes) step = this.newMap(source, output);
        step.slopes = lowered;
        this.extend(step, output);
      } else if (lowered.kind === 'clamp') {
        const step = this.openStep(source) || this.newMap(source, output);
        step.clamp = lowered;
        this.extend(step, output);
      } else if (lowered.kind === 'sum') {
        this.add(sources, output);
      } else if (lowered.kind === 'product') {
        const [kind, from] = this.operand(source, lowered);
        this.append(newStep(kind, from, output, shape, { window: lowered.window, operation: op }));
      } else if (lowered.kind === 'byte product') {
        const { window, args, pixels } = lowered;
        const kind = pixels ? 'pixel_conv' : 'byte_conv';
        this.append(newStep(kind, source, output, shape, { window, args, operation: op }));
      } else {
        const { window = null, args, fuses } = lowered;
        this.append(newStep(lowered.name, source, output, shape, { window, args, fuses }));
      }
    }

    // The operand computed last can take the other one as it is made.
    add(sources, output) {
      const place = (name) => (name in this.madeBy ? this.steps.indexOf(this.madeBy[name]) : -1);
      const [late, early] = [...sources].sort((a, b) => place(b) - place(a));
      let step = late === early ? null : this.openStep(late);
      if (!step || step.residual || activates(step)) step = this.newMap(late, output);
      step.residual = early;
      this.extend(step, output);
    }

    // The step that made a value nobody else reads, if it can take more.
    openStep(name) {
      const step = this.madeBy[name];
      const open = step && this.readers[name] === 1 && step.fuses && step.kind !== 'image';
      return open && !step.clamp ? step : null;
    }

    takeAffine(step, affine) {
      if (!(step.affine || step.residual || activates(step) || this.hasBias(step))) {
        step.affine = affine;
      } else if (affine.slope.some((v) => v !== 1)) {
        return false;
      } else if (!step.slopes && !step.before) {
        step.before = affine.offset;
      } else if (step.slopes && !step.after) {
        step.after = affine.offset;
      } else {
        return false;
      }
      return true;
    }

    // A bias rounds before a BatchNorm does: they are two passes.
    hasBias(step) {
      return 'bias' in stepTensors(step, this.packed);
    }

    extend(step, output) {
      this.madeBy[output] = step;
      step.output = output;
    }

    append(step) {
      this.madeBy[step.output] = step;
      this.steps.push(step);
      return step;
    }

    newMap(source, output) {
      return this.append(newStep('map', source, output, this.packed.shapes[output]));
    }

    // Signs of a value as 'map' (bits) or 'sign' (floats), in a step of its own.
    derived(kind, source, threshold) {
      const form = JSON.stringify([kind, source, key(threshold)]);
      if (!this.signs.has(form)) {
        let name = `${kind === 'map' ? 'bits' : 'sign'} of ${source}`;
        while (name in this.packed.shapes || name in this.madeBy) name += "'";
        const args = kind === 'sign' ? [threshold || []] : [];
        const shape = this.packed.shapes[source];
        this.append(newStep(kind, source, name, shape, { threshold, args, fuses: kind === 'map' }));
        this.signs.set(form, name);
      }
      return this.signs.get(form);
    }

    // The step that computes a convolution, and what it reads.
    operand(source, { window, binarize, threshold }) {
      if (!binarize) return ['conv', source];
      if (!isSquare(window) || window.kernel[0] > MAX_BINARY_KERNEL) {
        return ['conv', this.derived('sign', source, threshold)];
      }
      const step = this.madeBy[source];
      const taken = step.bits && key(step.threshold) !== key(threshold);
      if (taken || !step.fuses) return ['binary_conv', this.derived('map', source, threshold)];
      step.bits = true;
      step.threshold = threshold;
      return ['binary_conv', source];
    }
  }

  const readsAsItComes = ({ kind, binarize, pixels }) =>
    (kind === 'product' && !binarize) || (kind === 'byte product' && pixels);

  // Whether the image is needed in the layout of the other values.
  function readsImage(packed, lowered) {
    const names = new Set(['input']);
    for (const [i, op] of packed.graph.entries()) {
      if (!op.src.some((name) => names.has(name))) continue;
      if (lowered[i].kind === 'alias') names.add(op.dst);
      else if (!readsAsItComes(lowered[i])) return true;
    }
    return names.has(packed.graph.at(-1).dst);
  }

  // Groups the graph into steps; also says which value is the logits.
  function fuse(packed) {
    const fusion = new Fusion(packed);
    const lowered = packed.graph.map((op) => OPERATIONS[op.op].lower(...ask(packed, op)));
    if (readsImage(packed, lowered)) {
      fusion.append(newStep('image', 'input', 'input', packed.shapes.input));
    }
    packed.graph.forEach((op, i) => fusion.take(op, lowered[i]));
    const logits = fusion.alias[packed.graph.at(-1).dst];
    const { steps, madeBy } = fusion;
    for (const step of steps) {
      if (step.source in madeBy && step.kind !== 'image') {
        madeBy[step.source][step.kind === 'binary_conv' ? 'bits' : 'floats'] = true;
      }
      if (step.residual) madeBy[step.residual].floats = true;
    }
    madeBy[logits].floats = true;
    // What cannot pack in its own pass, or is never read, stays in floats.
    for (const step of steps) step.floats ||= !step.bits;
    return [steps, logits];
  }

  /* Gives every value a place of its own, unlike the runtime: the page draws them. */
  function buffers(packed, steps) {
    const pads = {};
    for (const { kind, source, window } of steps) {
      if (kind === 'binary_conv') pads[source] = Math.max(pads[source] || 0, window.padding[0]);
    }
    const result = [];
    let offset = 0;
    const place = (value, shape, kind) => {
      const [channels, height, width] = shape;
      const pad = kind === 'bits' ? pads[value] || 0 : 0;
      const pixel = {
        image: () => 4 * channels,
        pixels: () => channels,
        floats: () => 4 * roundUp(channels, FLOAT_LANES),
        bits: () => (WORD / 8) * Math.ceil(channels / WORD),
      }[kind]();
      result.push({ value, shape, kind, pad, pixel, offset });
      offset += roundUp(height * (width + 2 * pad) * pixel + GAP, ALIGNMENT);
    };
    for (const kind of ['image', 'pixels']) {
      if (steps.some((step) => imageKind(step) === kind)) place('input', packed.shapes.input, kind);
    }
    for (const step of steps) {
      if (step.floats) place(step.output, step.shape, 'floats');
      if (step.bits) place(step.output, step.shape, 'bits');
    }
    return [result, offset];
  }

  // In which form a step reads the image, if it reads it as it comes.
  function imageKind({ source, kind }) {
    const kinds = { conv: 'image', image: 'image', pixel_conv: 'pixels' };
    return source === 'input' ? kinds[kind] : undefined;
  }

  // What the epilogue takes of an operation; sums of bytes have their own.
  function stepTensors(step, packed) {
    const none = !step.operation || ['byte_conv', 'pixel_conv'].includes(step.kind);
    return none ? {} : tensorsOf(packed, step.operation);
  }

  // What the sums are multiplied with before the affine.
  function scaleOf(step, packed) {
    const tensors = stepTensors(step, packed);
    if (tensors.offset && !tensors.affine_input) return []; // it is in the weights
    return tensors.scale || [];
  }

  // Shift, slopes below and above zero, and shift, each a row.
  function activationOf(step) {
    if (!activates(step)) return [];
    const channels = step.shape[0];
    const none = new Float32Array(channels).fill(-0); // what it is added to stays as it is
    const one = new Float32Array(channels).fill(1);
    const { negative, positive } = step.slopes || { negative: one, positive: one };
    return f32([...(step.before || none), ...negative, ...positive, ...(step.after || none)]);
  }

  // Affine, bias and exponents as y = fma(x, alpha, beta); empty for none.
  function affineOf(step, packed) {
    const channels = step.shape[0];
    const { bias, exponent } = stepTensors(step, packed);
    let alpha = step.affine ? step.affine.slope : new Float32Array(channels).fill(1);
    let beta = step.affine ? step.affine.offset : new Float32Array(channels);
    if (bias) beta = beta.map((value, i) => value + Math.fround(alpha[i] * bias[i]));
    if (step.kind === 'binary_conv' && exponent) {
      alpha = alpha.map((value, i) => value * 2 ** exponent[i]);
    }
    if (alpha.every((v) => v === 1) && beta.every((v) => v === 0)) return [[], []];
    return [alpha, beta];
  }

  // ------------------------------------------------------------------------
  // The runtime, see mmirnet/runtime/csrc/wasm.cpp.

  // What the module asks of its surroundings: a clock, for calls that take long.
  const IMPORTS = {
    env: { emscripten_notify_memory_growth() {} },
    wasi_snapshot_preview1: {
      clock_time_get: () => 0,
      proc_exit(code) {
        throw new Error(`the runtime exited with ${code}`);
      },
    },
  };

  class Runtime {
    static async start(wasm) {
      const { instance } = await WebAssembly.instantiate(wasm, IMPORTS);
      instance.exports._initialize();
      return new Runtime(instance.exports);
    }

    constructor(functions) {
      this.functions = functions;
      this.copies = [];
    }

    // A view of the memory, which moves when it grows.
    view(type, address, length) {
      return new type(this.functions.memory.buffer, address, length);
    }

    copy(array) {
      const address = this.functions.malloc(array.byteLength);
      const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
      this.view(Uint8Array, address, array.byteLength).set(bytes);
      this.copies.push(address);
      return address;
    }

    // Frees what was copied, once an operation has taken it.
    release() {
      this.copies.splice(0).forEach((address) => this.functions.free(address));
    }

    // Calls a function. An array goes as its address and length, that of a Uint8Array
    // in words of 64 bits; an Int32Array goes as its address alone.
    call(name, ...args) {
      const flat = args.flatMap((arg) => {
        if (typeof arg === 'number') return [arg];
        if (!arg.length) return [0, 0];
        if (arg instanceof Int32Array) return [this.copy(arg)];
        return [this.copy(arg), arg instanceof Uint8Array ? arg.length / 8 : arg.length];
      });
      try {
        return this.functions[name](...flat);
      } catch (error) {
        throw this.functions.failure() ? new Error(this.failure()) : error;
      }
    }

    failure() {
      const bytes = this.view(Uint8Array, this.functions.failure());
      return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
    }
  }

  const windowOf = ({ kernel, stride, padding, dilation }) =>
    Int32Array.from([...kernel, ...stride, ...padding, ...dilation]);

  /* A packed network, ready to predict. */
  class Network {
    constructor(packed, runtime) {
      this.packed = packed;
      this.runtime = runtime;
      const [steps, logits] = fuse(packed);
      const [places, size] = buffers(packed, steps);
      this.steps = steps;
      this.places = new Map();
      runtime.call('create', size);
      const kinds = ['image', 'floats', 'bits', 'pixels'];
      for (const place of places) {
        const [channels, height, width] = place.shape;
        const sizes = [height, width, channels, place.pad, place.offset];
        place.id = runtime.call('add_tensor', kinds.indexOf(place.kind), ...sizes);
        this.places.set(`${place.kind} ${place.value}`, place);
      }
      const { mean, std } = packed.input;
      const images = ['image', 'pixels'].map((kind) => this.tensor(kind, 'input'));
      runtime.call('set_input', ...images, f32(mean), f32(std));
      for (const step of steps) this.add(step);
      runtime.call('set_output', this.tensor('floats', logits));
      const [channels, height, width] = packed.shapes.input;
      const { malloc } = runtime.functions;
      this.image = malloc(4 * channels * height * width);
      this.logits = malloc(4 * packed.shapes[packed.graph.at(-1).dst][0]);
    }

    // The number of a tensor of the runtime; -1 for none.
    tensor(kind, value) {
      const place = this.places.get(`${kind} ${value}`);
      return place ? place.id : -1;
    }

    // Where a step finds what it reads.
    source(step) {
      const kind = imageKind(step) || (step.kind === 'binary_conv' ? 'bits' : 'floats');
      return this.places.get(`${kind} ${step.source}`);
    }

    add(step) {
      const { packed, runtime } = this;
      const kind = { image: 'map', pixel_conv: 'byte_conv' }[step.kind] || step.kind;
      const args = [this.source(step).id];
      if (step.window) args.push(windowOf(step.window));
      args.push(...step.args);
      if (kind === 'binary_conv') {
        const { offset = [], affine_input: affineInput = [] } = stepTensors(step, packed);
        const terms = affineInput.length ? [offset, affineInput] : [[], []];
        args.push(packedSigns(packed, step.operation), ...terms);
      } else if (kind === 'byte_conv') {
        args.push(...byteWeights(packed, step));
      } else if (kind === 'conv') {
        args.push(step.window.groups, floatWeights(packed, step.operation));
      }
      if (!step.fuses) args.push(this.tensor('floats', step.output));
      else this.setEpilogue(step);
      runtime.call(`add_${kind}`, ...args);
      runtime.release();
    }

    setEpilogue(step) {
      const { low, high } = step.clamp || clamp(-Infinity, Infinity);
      this.runtime.call(
        'set_epilogue',
        ...affineOf(step, this.packed),
        low,
        high,
        this.tensor('floats', step.residual),
        this.tensor('floats', step.output),
        this.tensor('bits', step.output),
        scaleOf(step, this.packed),
        activationOf(step),
        step.threshold || [],
      );
    }

    /* The logits of one image, Float32Array: of uint8 pixels (height, width, channels),
     * RGB or grey, or of floats (channels, height, width), normalised, in the network's
     * own order. */
    predict(image) {
      const { packed, runtime } = this;
      const sizes = packed.shapes.input;
      if (image.length !== product(sizes)) {
        throw new Error(`an image has ${sizes.join(' x ')} values, not ${image.length}`);
      }
      const pixels = image instanceof Uint8Array;
      const reverse = pixels && packed.input.order === 'bgr';
      const values = reverse ? image.map((_, i) => image[i + 2 - 2 * (i % 3)]) : image;
      runtime.view(image.constructor, this.image, image.length).set(values);
      this.arena = runtime.call(pixels ? 'run_pixels' : 'run_floats', this.image, this.logits);
      const classes = packed.shapes[packed.graph.at(-1).dst][0];
      const logits = runtime.view(Float32Array, this.logits, classes).slice();
      if (!logits.every(Number.isFinite)) throw new Error('the logits are not finite');
      return logits;
    }

    /* The binary layers in order: `name`, their `signs` (see signsOf), `shape` of their
     * input (channels, height, width), and `bits` of each of its values. */
    get layers() {
      return this.packed.graph
        .filter((op) => op.op.startsWith('binary_'))
        .map((op) => ({
          name: op.dst,
          signs: signsOf(this.packed, op),
          shape: this.packed.shapes[op.src[0]],
          // Of an activation.
          bits: op.op.endsWith('_int8') ? 8 : op.binarize_input ? 1 : 32,
          step: this.steps.find((step) => step.operation === op),
        }));
    }

    /* What a layer read in the last image, as a function (channel, row, column): 0 or 1
     * where its input is binary, else a float. */
    activations({ step, bits, shape }) {
      const [channels, , width] = shape;
      const place = this.source(step);
      const start = this.arena + place.offset;
      if (place.kind === 'bits') {
        const bytes = this.runtime.view(Uint8Array, start);
        const row = (width + 2 * place.pad) * place.pixel;
        return (c, y, x) =>
          (bytes[y * row + (x + place.pad) * place.pixel + (c >> 3)] >> (c & 7)) & 1;
      }
      const floats = this.runtime.view(Float32Array, start);
      const value = (c, y, x) => floats[((y * width + x) * place.pixel) / 4 + c];
      return bits === 1 ? (c, y, x) => Number(value(c, y, x) >= 0) : value;
    }
  }

  /* A packed network from the bytes of its file and of the runtime, as Uint8Array. */
  async function load(bytes, wasm) {
    return new Network(read(bytes), await Runtime.start(wasm));
  }

  return { load };
})();
