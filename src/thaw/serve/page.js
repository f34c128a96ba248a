// The page of thaw serve: sends images to /api/predict and draws the state of /api/run. Names are inserted as text only.

const byId = (id) => document.getElementById(id);
const percent = (fraction) => `${(100 * fraction).toFixed(1)}%`;
let about = { arms: [], max_bytes: 0 };
let chosenArm = ""; // by the person; else the recommended one, which comes first

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function duration(seconds) {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  const told = await answer.json();
  if (!answer.ok) throw new Error(typeof told.detail === "string" ? told.detail : "the request was not understood.");
  return told;
}

// ---- images

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

async function look(images) {
  const wrong = [];
  for (const image of images) {
    const name = image.name || "The image";
    say(`Looking at ${name} …`);
    try {
      if (image.size > about.max_bytes) throw new Error("the upload is too large; send a smaller image.");
      const arm = byId("arm").value;
      const path = `api/predict${arm ? `?arm=${encodeURIComponent(arm)}` : ""}`;
      show(name, await ask(path, { method: "POST", body: image, headers: { "content-type": "application/octet-stream" } }));
    } catch (error) {
      wrong.push(`${name}: ${error.message}`);
    }
  }
  say(wrong.join(" "), true);
}

// What the model says besides its most probable class, in words; `warns` marks what nobody should overlook.
function doubts(told) {
  const said = [];
  if (told.unlike !== null && told.unlike > 1) {
    said.push({ text: "Unlike the training images: do not rely on this answer.", warns: true });
  }
  if (told.decided !== null) {
    const { positive, probability } = told.threshold;
    said.push({ text: `Decision: ${told.decided} (${positive} from ${percent(probability)} on).`, warns: told.decided !== told.predicted });
  }
  if (told.set !== null) {
    const among = `holds the class of ${percent(told.coverage)} of images like the training images`;
    if (told.set.length) said.push({ text: `May be ${told.set.join(", ")}: such a set ${among}.`, warns: told.set.length > 1 });
    else said.push({ text: `No class is probable enough: the set, which ${among}, is empty.`, warns: true });
  }
  return said;
}

function show(name, told) {
  const card = byId("answer").content.cloneNode(true);
  const [seen, heat] = card.querySelectorAll(".seen img");
  seen.src = told.seen;
  seen.alt = `${name}, as the network sees it`;
  if (told.heat) {
    heat.src = told.heat;
    heat.alt = `Heat map for ${told.predicted}`;
  } else {
    heat.remove();
  }
  const heated = card.querySelector(".heated");
  if (told.heat) {
    const button = element("button", "Hide the heat map");
    button.type = "button";
    button.addEventListener("click", () => {
      heat.hidden = !heat.hidden;
      button.textContent = heat.hidden ? "Show the heat map" : "Hide the heat map";
    });
    heated.append(button);
  } else {
    heated.textContent = told.heat_why;
  }
  card.querySelector(".verdict strong").textContent = told.predicted;
  card.querySelector(".verdict span").textContent = percent(told.probabilities[0].probability);
  const scaled = told.calibrated ? "calibrated probabilities" : "probabilities not calibrated";
  card.querySelector(".told").textContent = `${name}, by ${told.arm}; ${scaled}; ${duration(told.seconds)}.`;
  for (const { text, warns } of doubts(told)) {
    card.querySelector(".doubt").append(element("li", text, warns ? "warns" : ""));
  }
  for (const { name: label, probability } of told.probabilities.slice(0, 5)) {
    const bar = element("meter");
    bar.value = probability;
    bar.setAttribute("aria-label", label);
    const cell = element("dd");
    cell.append(bar);
    card.querySelector(".bars").append(element("dt", label), cell, element("dd", percent(probability), "number"));
  }
  const alike = card.querySelector(".alike");
  alike.querySelector(".note").textContent = told.similar_why;
  for (const { id, label, similarity, image } of told.similar) {
    const figure = element("figure");
    const picture = element("img");
    picture.src = image;
    picture.alt = `${label}, training image ${id}`;
    picture.title = id;
    figure.append(picture, element("figcaption", `${label} · ${similarity.toFixed(2)}`));
    alike.querySelector("div").append(figure);
  }
  byId("answers").prepend(card);
}

const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") look([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => look([...event.clipboardData.files]));
byId("file").addEventListener("change", async (event) => {
  await look([...event.target.files]);
  event.target.value = "";
});

byId("arm").addEventListener("change", (event) => {
  chosenArm = event.target.value;
});

// ---- the camera

const video = byId("video");

function closeCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  byId("viewfinder").hidden = true;
}

byId("camera").addEventListener("click", async () => {
  try {
    if (!navigator.mediaDevices) throw new Error("browsers allow it only on pages of this machine or over https.");
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    await video.play();
    byId("viewfinder").hidden = false;
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`, true);
  }
});
byId("close").addEventListener("click", closeCamera);
byId("take").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => look([new File([blob], "The photo")]), "image/jpeg", 0.95);
});

// ---- the study

const SVG = "http://www.w3.org/2000/svg";

function drawn(svg, name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  svg.append(made);
}

// Lines through points [x, y] in the colours of their arms; `labels` maps values of x to the text on the axis, and
// `written` formats a value of y.
function chart(svg, lines, labels, written) {
  const [left, right, top, bottom] = [52, 470, 10, 222];
  svg.replaceChildren();
  const points = lines.flatMap((line) => line.points).filter(([, y]) => Number.isFinite(y));
  if (!points.length) {
    drawn(svg, "text", { x: 240, y: 125, "text-anchor": "middle" }, "nothing yet");
    return;
  }
  const xs = Object.keys(labels).map(Number);
  const [lowX, highX] = [Math.min(...xs), Math.max(...xs)];
  const [lowY, highY] = [Math.min(...points.map((point) => point[1])), Math.max(...points.map((point) => point[1]))];
  const margin = (highY - lowY || 0.1) * 0.08;
  const placeX = (x) => left + ((x - lowX) / (highX - lowX || 1)) * (right - left - 12) + 6;
  const placeY = (y) => bottom - ((y - lowY + margin) / (highY - lowY + 2 * margin)) * (bottom - top);
  for (let step = 0; step < 5; step += 1) {
    const y = lowY + ((highY - lowY) * step) / 4;
    drawn(svg, "line", { class: "grid", x1: left, x2: right, y1: placeY(y), y2: placeY(y) });
    drawn(svg, "text", { x: left - 6, y: placeY(y) + 4, "text-anchor": "end" }, written(y));
    if (highY === lowY) break;
  }
  const every = Math.ceil(xs.length / 10);
  xs.filter((_, place) => place % every === 0).forEach((x) => {
    drawn(svg, "text", { x: placeX(x), y: bottom + 18, "text-anchor": "middle" }, labels[x]);
  });
  for (const { colour, points: all } of lines) {
    const shown = all.filter(([, y]) => Number.isFinite(y)).map(([x, y]) => [placeX(x), placeY(y)]);
    drawn(svg, "polyline", { class: `arm-${colour}`, points: shown.map((point) => point.join(",")).join(" ") });
    for (const [x, y] of shown) drawn(svg, "circle", { class: `arm-${colour}`, cx: x, cy: y, r: 3 });
  }
}

function drawStudy(told) {
  // trials on a share of the labels are told of, not drawn
  const arms = Object.entries(told.arms).map(([name, arm]) => [name, { ...arm, trials: arm.trials.filter((run) => !run.fraction) }]);
  const trials = arms.flatMap(([, arm], place) => arm.trials.map((run) => ({ colour: place % 8, ...run })));
  const epochs = Math.max(1, ...trials.map((run) => run.epochs.length));
  const numbered = Object.fromEntries(Array.from({ length: epochs }, (_, place) => [place + 1, `${place + 1}`]));
  for (const quantity of ["loss", "accuracy"]) {
    const lines = trials.map(({ colour, epochs: rows }) => ({ colour, points: rows.map((row, i) => [i + 1, row[quantity]]) }));
    chart(byId(quantity), lines, numbered, quantity === "loss" ? (loss) => loss.toFixed(2) : percent);
  }
  const rates = [...new Set(trials.flatMap((run) => run.search.map((row) => row.learning_rate)))].sort((a, b) => a - b);
  const named = Object.fromEntries(rates.map((rate, place) => [place, Number(rate.toPrecision(2)).toExponential()]));
  // a line for each number of steps: successive halving tries the better rates again with more of them
  const searched = trials.flatMap(({ colour, search }) =>
    [...new Set(search.map((row) => row.steps))].map((steps) => ({
      colour,
      points: search
        .filter((row) => row.steps === steps && !row.failed)
        .map((row) => [rates.indexOf(row.learning_rate), row.accuracy])
        .sort((a, b) => a[0] - b[0]),
    })),
  );
  chart(byId("search"), searched, named, percent);
  const rows = arms.map(([name, arm], place) => {
    const row = element("tr");
    const head = element("th");
    head.scope = "row";
    head.append(element("i", "", `dot arm-${place % 8}`), name);
    const last = arm.trials.at(-1)?.epochs.at(-1);
    const cells = [
      arm.trials.at(-1)?.fit?.length ? "fitted" : `${arm.trials.at(-1)?.epochs.length ?? 0}`,
      Number.isFinite(last?.loss) ? last.loss.toFixed(4) : "",
      last ? percent(last.accuracy) : "",
      arm.accuracy === null ? "" : percent(arm.accuracy),
    ];
    row.append(head, ...cells.map((text) => element("td", text, "number")));
    return row;
  });
  byId("arms").replaceChildren(...rows);
}

function tellStudy(told) {
  const going = ["running", "silent"].includes(told.state);
  const share = (told.fraction ?? 1) < 1 ? `, ${percent(told.fraction)} of the labels` : "";
  const where = told.arm === null ? "" : ` · arm ${told.arm}, seed ${told.seed}${share}`;
  const sentences = {
    waiting: "The study has not started yet.",
    running: `${told.stage ?? "starting"}${where}`,
    silent: `${told.stage ?? "starting"}${where}: no sign of life for ${duration(told.heard ?? 0)}; it may have been stopped.`,
    stopped: `Stopped: ${told.why}`,
    finished: told.recommended ? `Finished in ${duration(told.seconds ?? 0)}. Use ${told.recommended}.` : "Finished.",
  };
  byId("stage").textContent = sentences[told.state];
  byId("bar").hidden = !going || !told.total;
  if (told.total) {
    byId("bar").max = told.total;
    byId("bar").value = told.done;
  }
  const left = [];
  if (going && told.total) left.push(`${told.done.toLocaleString("en")} of ${told.total.toLocaleString("en")} ${told.unit}`);
  if (going && told.stage_left !== null) left.push(`${duration(told.stage_left)} left in this stage`);
  if (going && told.trials) left.push(`${told.trials.done} of ${told.trials.total} trials done`);
  if (going && told.study_left !== null) left.push(`about ${duration(told.study_left)} left in the study`);
  byId("left").textContent = left.join(" · ");
  byId("report").hidden = going || !told.report;
  // the study comes first while it runs, the model once it is finished
  if (told.state === "finished") byId("look").after(byId("study"));
}

async function followStudy() {
  let wait = 2000;
  try {
    const told = await ask("api/run");
    byId("study").hidden = false;
    byId("title").textContent = told.recipe ?? "A study";
    tellStudy(told);
    drawStudy(told);
    if (told.state === "running") wait = 1000;
    const trained = Object.values(told.arms).filter((arm) => arm.trials.some((run) => run.seconds !== null)).length;
    if (trained > about.arms.length || told.state === "finished") await introduce();
    if (told.state === "finished") return;
  } catch (error) {
    byId("stage").textContent = `The server does not answer: ${error.message}`;
  }
  setTimeout(followStudy, wait);
}

async function introduce() {
  about = await ask("api/about");
  const classes = about.classes.length > 8 ? `${about.classes.length} classes` : about.classes.join(", ");
  byId("about").textContent = about.backbone ? `${about.backbone}: ${classes}` : "No arm is trained yet.";
  byId("limits").textContent = `${about.formats.join(", ")}, up to ${about.max_bytes >> 20} MiB. They stay on this machine.`;
  byId("arm").replaceChildren(...about.arms.map((arm) => element("option", arm)));
  if (about.arms.includes(chosenArm)) byId("arm").value = chosenArm;
  byId("which").hidden = about.arms.length < 2;
  if (!about.run) byId("title").textContent = about.arms[0];
}

try {
  await introduce();
  if (about.run) await followStudy();
} catch (error) {
  say(error.message, true);
}
