// The interactive parts of the page: tables that sort and copy, and the gallery. It loads and sends nothing, and
// inserts every name as text.
"use strict";

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const button = (text, attributes = {}) => element("button", { type: "button", ...attributes }, text);

// ---- tables ----

// The text of a cell: what stands small beneath or beside the value goes in brackets.
function cellText(cell) {
  const parts = [...cell.childNodes].map((node) => {
    const text = node.textContent.replace(/\s+/gu, " ").trim();
    return text && node.matches?.("small, .tag") ? `(${text})` : text;
  });
  return parts.filter(Boolean).join(" ").replace(/ ,/gu, ",");
}

function tableRows(table) {
  return [...table.rows].map((row) => [...row.cells].map(cellText));
}

// A name must stay a name: nothing in it may become markup, a link or a new column.
function markdownText(text) {
  return text
    .replace(/[\\`*_[\]<>|~&$!#]/gu, "\\$&")
    .replace(/:(?=\/\/)/gu, "\\:")
    .replace(/(www)\./giu, "$1\\.");
}

const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "_": "\\_", "%": "\\%",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
  "|": "\\textbar{}", '"': "\\textquotedbl{}", "`": "\\textasciigrave{}", "−": "$-$", "±": "$\\pm$", "×": "$\\times$",
  "–": "--", "’": "'",
};

function latexText(text) {
  const safe = text.replace(/[\\{}$&#_%~^<>|"`−±×–’]/gu, (letter) => LATEX[letter]);
  // after \\ a bracket or star would be read as its argument
  return /^[[*]/u.test(safe) ? `{}${safe}` : safe;
}

const numeric = (table) => [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("number"));

function asMarkdown(table) {
  const [head, ...body] = tableRows(table);
  const rule = numeric(table).map((right) => (right ? "---:" : "---"));
  const lines = [head.map(markdownText), rule, ...body.map((row) => row.map(markdownText))];
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n") + "\n";
}

function asLatex(table) {
  const [head, ...body] = tableRows(table).map((row) => `${row.map(latexText).join(" & ")} \\\\`);
  const columns = numeric(table).map((right) => (right ? "r" : "l")).join("");
  const caption = cellText(table.caption).replace(/^Table \d+ /u, "");
  return [
    "% needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs,textcomp}",
    "\\begin{table}", "\\centering", `\\caption{${latexText(caption)}}`, `\\begin{tabular}{${columns}}`,
    "\\toprule", head, "\\midrule", ...body, "\\bottomrule", "\\end{tabular}", "\\end{table}", "",
  ].join("\n");
}

async function copy(text, said, kind) {
  try {
    await navigator.clipboard.writeText(text);
    said.textContent = `Copied as ${kind}.`;
  } catch {
    // no clipboard here: show the text, selected
    const area = element("textarea", { readonly: "", rows: "8", "aria-label": `The table as ${kind}` });
    area.value = text;
    said.replaceChildren(area);
    area.select();
  }
}

function addCopying(table) {
  const said = element("span", { role: "status" });
  const name = table.closest(".scroll").getAttribute("aria-label");
  const kinds = [["Markdown", asMarkdown], ["LaTeX", asLatex]].map(([kind, write]) => {
    const made = button(kind, { "aria-label": `Copy as ${kind}: ${name}` });
    made.addEventListener("click", () => copy(write(table), said, kind));
    return made;
  });
  table.closest(".table").append(element("p", { class: "copy" }, "Copy as ", kinds[0], " or ", kinds[1], " ", said));
}

function sortValue(row, column) {
  const cell = row.cells[column];
  const given = cell.dataset.sort ?? cellText(cell).replace(/,(?=\d{3})/gu, "");
  return given !== "" && Number.isFinite(Number(given)) ? Number(given) : given;
}

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const sign = direction === "ascending" ? 1 : -1;
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });
  const rows = [...body.rows].map((row) => [sortValue(row, column), row]);
  rows.sort(([a], [b]) => sign * compare(a, b));
  body.append(...rows.map(([, row]) => row));
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", direction);
}

function addSorting(table) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const made = button("", { class: "sort", title: "Sort by this column" });
    made.append(...cell.childNodes);
    cell.append(made);
    made.addEventListener("click", () => {
      // numbers start with the highest
      const first = cell.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      sortBy(table, column, cell.getAttribute("aria-sort") === first ? other : first);
    });
  });
}

for (const table of document.querySelectorAll(".table table")) {
  if (table.tBodies[0].rows.length > 1) addSorting(table);
  addCopying(table);
}

// ---- gallery ----

const PAGE = 21; // images shown at once
const CONFIDENT = 0.9; // from here on a mistake is called confident
const percent = (fraction) => `${(100 * fraction).toFixed(1)}%`;

// The colours of heat maps from cold to hot, and how much the hottest covers: as in images/overlay.py.
const HEAT = [
  [0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84],
  [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164],
];
const HEAT_OPACITY = 0.7;

// A heat map of bytes as a canvas over its image: clear where nothing spoke for the answer.
function heatCanvas(encoded) {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const side = Math.round(Math.sqrt(bytes.length));
  const canvas = element("canvas", { width: side, height: side, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  bytes.slice(0, side * side).forEach((value, place) => {
    const step = ((HEAT.length - 1) * value) / 255;
    const [low, high] = [HEAT[Math.floor(step)], HEAT[Math.ceil(step)]];
    const colour = low.map((channel, i) => channel + (high[i] - channel) * (step % 1));
    image.data.set([...colour, HEAT_OPACITY * value], 4 * place);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

// Beside an image, the same under its heat map.
for (const one of document.querySelectorAll("[data-heat]")) {
  const image = one.querySelector("img").cloneNode();
  image.alt = "The same with a heat map of what the network looked at";
  one.append(element("span", { class: "picture" }, image, heatCanvas(one.dataset.heat)));
}

function makeGallery(data) {
  const form = document.querySelector(".filters");
  const dialog = $("picture");
  const arms = Object.keys(data.arms);
  const isRight = (arm, i) => data.arms[arm].predicted[i] === data.labels[i];
  const hash = (i) => `#img-${encodeURIComponent(data.ids[i])}`;
  let found = []; // places of the images that pass the filters, in order
  let shown = 0;
  let open = -1;

  const KINDS = {
    all: () => true,
    wrong: (arm, i) => !isRight(arm, i),
    confident: (arm, i) => !isRight(arm, i) && data.arms[arm].sure[i] >= CONFIDENT,
    unsure: () => true,
    right: isRight,
    "only-right": (arm, i) => isRight(arm, i) && !arms.some((other) => other !== arm && isRight(other, i)),
    "only-wrong": (arm, i) => !isRight(arm, i) && arms.every((other) => other === arm || isRight(other, i)),
    suspect: (_, i) => data.suspects[i] !== null,
  };

  const ORDER = { wrong: -1, confident: -1, "only-wrong": -1, unsure: 1 }; // by how sure the arm is

  function passing() {
    const { arm, kind, label, predicted, slice, search } = form.elements;
    const of = data.arms[arm.value];
    const column = slice?.value ? data.slices[slice.selectedOptions[0].dataset.column] : null;
    const part = search.value.trim().toLowerCase();
    const keep = (i) =>
      KINDS[kind.value](arm.value, i) &&
      (label.value === "" || data.labels[i] === Number(label.value)) &&
      (predicted.value === "" || of.predicted[i] === Number(predicted.value)) &&
      (!column || column[i] === slice.value) &&
      data.ids[i].toLowerCase().includes(part);
    const order = ORDER[kind.value] ?? 0;
    return data.ids.map((_, i) => i).filter(keep).sort((a, b) => order * (of.sure[a] - of.sure[b]) || a - b);
  }

  function picture(arm, i, heat) {
    const alt = `Test image ${data.ids[i]}, labelled ${data.classes[data.labels[i]]}`;
    const made = element("span", { class: "picture" }, element("img", { src: data.pictures[i], alt }));
    if (heat && data.arms[arm].heat[i]) made.append(heatCanvas(data.arms[arm].heat[i]));
    return made;
  }

  function answer(arm, i) {
    const { predicted, sure } = data.arms[arm];
    const mark = isRight(arm, i) ? "✓" : "✗";
    const said = element("span", { class: isRight(arm, i) ? "right" : "wrong" });
    said.append(element("span", { "aria-hidden": "true" }, `${mark} `), element("bdi", {}, data.classes[predicted[i]]), " ");
    said.append(element("span", {}, percent(sure[i])), element("span", { class: "unseen" }, isRight(arm, i) ? " right" : " wrong"));
    return said;
  }

  function card(i) {
    const arm = form.elements.arm.value;
    const compared = element("span", { class: "compare", id: `compare-${i}`, role: "tooltip" });
    for (const other of arms) compared.append(element("span", {}, element("b", {}, other), answer(other, i)));
    compared.append(element("small", {}, data.ids[i]));
    const label = element("small", {}, "labelled ", element("bdi", {}, data.classes[data.labels[i]]));
    const link = element("a", { href: hash(i), "aria-describedby": compared.id });
    link.append(picture(arm, i, form.elements.heat.checked), answer(arm, i), label);
    return element("li", {}, link, compared);
  }

  function more() {
    const next = found.slice(shown, shown + PAGE);
    $("gallery-cards").append(...next.map(card));
    shown += next.length;
    $("gallery-more").hidden = shown >= found.length;
  }

  function refresh() {
    found = passing();
    shown = 0;
    $("gallery-cards").replaceChildren();
    more();
    const { arm, kind, heat } = form.elements;
    const without = found.filter((i) => !data.arms[arm.value].heat[i]).length;
    const number = (count) => count.toLocaleString("en");
    const told = [`${number(found.length)} of ${number(data.ids.length)} test images`];
    if (ORDER[kind.value]) told.push(ORDER[kind.value] < 0 ? "the surest first" : "the least sure first");
    if (heat.checked && without) told.push(`${number(without)} without a heat map`);
    $("gallery-count").textContent = `${told.join(", ")}.`;
  }

  function tile(heading, shownPicture, ...said) {
    return element("figure", {}, shownPicture, element("figcaption", {}, element("b", {}, heading), ...said));
  }

  function show(i) {
    open = i;
    $("picture-name").textContent = data.ids[i];
    const facts = [`labelled ${data.classes[data.labels[i]]}`];
    for (const [column, values] of Object.entries(data.slices)) facts.push(`${column} ${values[i]}`);
    if (data.suspects[i] !== null) facts.push(`suspect label, predicted ${data.suspects[i]}`);
    $("picture-facts").textContent = facts.join(" · ");
    const tiles = arms.map((arm) => {
      const none = data.arms[arm].heat[i] ? [] : [element("small", {}, "no heat map")];
      return tile(arm, picture(arm, i, true), answer(arm, i), ...none);
    });
    $("picture-tiles").replaceChildren(tile("the image", picture(arms[0], i, false)), ...tiles);
    $("picture-link").setAttribute("href", hash(i));
    if (!dialog.open) dialog.showModal();
  }

  // Every image has an address, #img-NAME, that opens it.
  function follow() {
    let name = "";
    try {
      name = decodeURIComponent(location.hash.slice(1));
    } catch {
      return;
    }
    const i = name.startsWith("img-") ? data.ids.indexOf(name.slice(4)) : -1;
    if (i >= 0) show(i);
    else if (dialog.open) dialog.close();
  }

  function turn(step) {
    const order = found.includes(open) ? found : data.ids.map((_, i) => i);
    const next = order[(order.indexOf(open) + step + order.length) % order.length];
    history.replaceState(null, "", hash(next));
    show(next);
  }

  // what compares the arms opens towards the middle
  const side = (event) => {
    const item = event.target.closest("li");
    item?.classList.toggle("end", item.offsetLeft - item.parentNode.offsetLeft > item.parentNode.clientWidth / 2);
  };
  $("gallery-cards").addEventListener("mouseover", side);
  $("gallery-cards").addEventListener("focusin", side);
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  $("gallery-more").addEventListener("click", () => {
    const before = shown;
    more();
    $("gallery-cards").children[before]?.querySelector("a").focus();
  });
  dialog.addEventListener("click", (event) => {
    const { value } = event.target;
    if (value === "close" || event.target === dialog) dialog.close();
    if (value === "previous") turn(-1);
    if (value === "next") turn(1);
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#img-")) history.replaceState(null, "", "#gallery");
    const card = found.indexOf(open);
    $("gallery-cards").children[card]?.querySelector("a").focus();
  });
  window.addEventListener("hashchange", follow);
  const maps = arms.some((arm) => data.arms[arm].heat.some(Boolean));
  for (const one of document.querySelectorAll("#gallery-app .of-heat")) one.hidden = !maps;
  $("gallery-app").hidden = false;
  refresh();
  follow();
}

if ($("gallery-data")) makeGallery(JSON.parse($("gallery-data").textContent));

// A link into a closed part of the page opens it.
function reveal() {
  const target = $(location.hash.slice(1));
  const closed = closedAround(target);
  for (const one of closed) one.open = true;
  if (closed.length) target.scrollIntoView();
}

// The closed parts of the page that hold an element, from the inside out.
function closedAround(one) {
  const found = [];
  for (let part = one?.closest("details"); part; part = part.parentElement.closest("details")) {
    if (!part.open) found.push(part);
  }
  return found;
}

// Paper has all of it.
let unfolded = [];
window.addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  for (const one of unfolded) one.open = true;
});
window.addEventListener("afterprint", () => {
  for (const one of unfolded) one.open = false;
});

window.addEventListener("hashchange", reveal);
reveal();
