// The page: loads the network, takes pictures, classifies them, shows classes and gates.

const WASM = "'wasm-unsafe-eval' in script-src of its Content-Security-Policy";
const BLENDED =
  "This picture is partly transparent: browsers change the colors of such parts unless it is a PNG file, so the " +
  "probabilities may differ a little from those that senet gives.";
const at = (name) => new URL(name, import.meta.url).href;
const get = (id) => document.getElementById(id);
const duration = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);

/** What was computed of each picture, oldest first. */
export const results = [];
export { PictureError, prepare, readPicture };

let ort, session, model;
let queue = Promise.resolve();

function complain(text) {
  get("problems").append(element("p", { className: "problem", textContent: text }));
}

async function fetched(name, onBytes = () => {}) {
  let response;
  try {
    response = await fetch(at(name), { cache: "no-cache" });
  } catch {
    throw new Error(`${name} cannot be fetched; the server does not answer`);
  }
  if (!response.ok) throw new Error(`${name} cannot be fetched (${response.status}); copy the whole folder to the server`);
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    onBytes(value.length);
  }
  return new Blob(parts).arrayBuffer();
}

async function startRuntime(wasm) {
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, or its settings forbid it; allow it, or use another browser.");
  try {
    new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
  } catch (error) {
    throw new Error(`WebAssembly is not allowed on this page; its server has to send ${WASM}, or none of these (${error.message})`);
  }
  ort.env.wasm.wasmBinary = wasm;
  if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1; // threads share memory, which only such pages may
}

async function load() {
  checkCanvas();
  model = JSON.parse(new TextDecoder().decode(await fetched("model.json")));
  const bar = get("loading"), { network, runtime } = model.files;
  bar.hidden = false;
  bar.max = network.bytes + runtime.bytes;
  bar.value = 0;
  const onBytes = (count) => (bar.value += count);
  const [weights, wasm, imported] = await Promise.all([
    fetched(network.name, onBytes),
    fetched(runtime.name, onBytes),
    import(at(model.files.script.name)).catch(() => null),
  ]);
  if (!imported) throw new Error(`${model.files.script.name} cannot be loaded; copy the whole folder to the server`);
  ort = imported;
  await startRuntime(wasm);
  session = await ort.InferenceSession.create(new Uint8Array(weights), { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  const { image_size: side, channels } = model.preprocessing;
  await infer(new Uint8Array(side * side * channels)); // the first run is slower than the others
}

async function infer(pixels) {
  const { image_size: side, channels } = model.preprocessing;
  const input = new ort.Tensor("uint8", pixels, [1, side, side, channels]);
  const outputs = await session.run({ [model.input]: input });
  return { logits: outputs[model.output].data, gates: model.gates.map(({ output }) => outputs[output].data) };
}

function softmax(logits) {
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - highest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/** Classify one picture: its likeliest classes, its gates, and how long each step took. */
export async function classify(file) {
  const start = performance.now();
  const picture = await readPicture(file);
  try {
    const read = performance.now();
    const pixels = prepare(picture, model.preprocessing, model.preprocessing.channels);
    const prepared = performance.now();
    const { logits, gates } = await infer(pixels);
    const times = { reading: read - start, resizing: prepared - read, network: performance.now() - prepared };
    const probabilities = softmax(logits), order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    const classes = order.slice(0, model.top).map((i) => ({ index: i, name: model.class_names[i], probability: probabilities[i] }));
    const { width, height, blended } = picture;
    return { name: file.name, width, height, blended, classes, probabilities, gates, pixels, times };
  } finally {
    picture.close();
  }
}

function classTable(classes) {
  const rows = classes.map(({ name, probability }) => {
    const fill = element("span", { className: "fill" });
    fill.style.width = `${100 * probability}%`;
    const track = element("div", { className: "track" }, fill);
    track.setAttribute("aria-hidden", "true");
    const value = element("td", { className: "number", textContent: `${(100 * probability).toFixed(1)} %` });
    return element("tr", {}, element("th", { scope: "row", className: "class", textContent: name }), value, element("td", { className: "bar" }, track));
  });
  const caption = element("caption", { textContent: "Likeliest classes" });
  const heads = ["Class", "Probability"].map((text) => element("th", { scope: "col", textContent: text }));
  heads.push(element("td"));
  return element("table", {}, caption, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
}

function show(result, file) {
  const { name, width, height, times } = result, id = `picture-${results.length}`;
  const image = element("img", { src: URL.createObjectURL(file), alt: "" });
  const facts =
    `${width} × ${height} pixels · read in ${duration(times.reading)}, resized in ${duration(times.resizing)}, ` +
    `network ${duration(times.network)}`;
  const described = element("div", {}, element("h2", { id, textContent: name }), classTable(result.classes));
  described.append(element("p", { className: "note", textContent: facts }));
  if (result.blended) described.append(element("p", { className: "note", textContent: BLENDED }));
  const article = element("article", {}, element("div", { className: "picture" }, image, described));
  article.setAttribute("aria-labelledby", id);
  if (model.gates.length) article.append(gatesOf(model.gates, result.gates, name));
  get("results").prepend(element("li", {}, article));
  get("clear").hidden = false;
}

async function take(files) {
  get("problems").replaceChildren();
  if (!files.length) complain("No file was given; drop, choose or paste pictures that are files.");
  for (const file of files) {
    get("status").textContent = `Computing ${file.name} …`;
    await new Promise((resolve) => setTimeout(resolve, 20)); // lets the browser draw
    try {
      const result = await classify(file);
      results.push(result);
      show(result, file);
      const [{ name, probability }] = result.classes;
      get("status").textContent = `${result.name}: ${name}, ${(100 * probability).toFixed(1)} %`;
    } catch (error) {
      get("status").textContent = "";
      complain(`${file.name} ${error instanceof PictureError ? error.message : `cannot be classified (${error.message})`}.`);
    }
  }
}

function clear() {
  for (const image of document.querySelectorAll("#results img")) URL.revokeObjectURL(image.src);
  get("results").replaceChildren();
  results.length = 0;
  get("clear").hidden = true;
  get("status").textContent = "All pictures are removed.";
  get("files").focus();
}

function listen() {
  const enqueue = (files) => (queue = queue.then(() => take([...files])));
  get("files").addEventListener("change", ({ target }) => {
    enqueue([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  });
  const dropping = (value) => (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", value);
  };
  document.addEventListener("dragover", dropping(true));
  document.addEventListener("dragleave", dropping(false));
  document.addEventListener("drop", (event) => {
    dropping(false)(event);
    enqueue(event.dataTransfer.files);
  });
  document.addEventListener("paste", ({ clipboardData }) => enqueue(clipboardData.files));
  get("clear").querySelector("button").addEventListener("click", clear);
}

/** Resolves when the page is ready; the tests wait for it. */
export const ready = (async () => {
  get("not-started").hidden = true;
  get("status").textContent = "Loading the network …";
  const start = performance.now();
  try {
    await load();
  } catch (error) {
    get("status").textContent = "";
    complain(error.message);
    document.documentElement.dataset.state = "failed";
    return;
  } finally {
    get("loading").hidden = true;
  }
  const threads = ort.env.wasm.numThreads === 1 ? "one thread" : `${ort.env.wasm.numThreads} threads`;
  get("speed").textContent = `Loaded in ${duration(performance.now() - start)}; computed by ${threads} of this device.`;
  listen();
  get("pictures").hidden = false;
  get("status").textContent = "Ready.";
  document.documentElement.dataset.state = "ready";
})();
