// Small things that every part of the page uses.

export const $ = (id) => document.getElementById(id);
export const pause = (ms) => new Promise((done) => setTimeout(done, ms));
export const painted = () => new Promise((done) => requestAnimationFrame(() => done()));

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function text(id, value) {
  const found = $(id);
  if (found.textContent !== value) found.textContent = value; // nothing is announced or laid out anew in vain
}

export function remember(key, value) {
  try { localStorage.setItem(`line-worker.${key}`, value); } catch { /* private windows have no storage */ }
}

export function remembered(key) {
  try { return localStorage.getItem(`line-worker.${key}`) || ""; } catch { return ""; }
}

// made once: making one takes longer than all the rest of what a part changes on the page
const COUNT = new Intl.NumberFormat("en");
const TIME = new Intl.DateTimeFormat("en-GB", {timeStyle: "medium"});

export const number = (value) => COUNT.format(value).replaceAll(",", "\u202f");
export const percent = (share) => `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)}\u202f%`;
export const ms = (value) => (value === null ? "–" : value < 10 ? value.toFixed(1) : String(Math.round(value)));
const short = (value) => (Math.abs(value) >= 0.1 || value === 0 ? value.toFixed(2) : value.toPrecision(2));
export const scoreOf = (part) => (part.score === null ? "–" : short(part.score));
export const limitOf = (part) => (part.threshold === null ? "" : ` (limit ${short(part.threshold)})`);
export const clock = (wall) => TIME.format(wall * 1000);

export const WORDS = {PASS: "PASS", FAIL: "REJECT", NO_DECISION: "REJECT"};
export const MARKS = {PASS: "#mark-pass", FAIL: "#mark-fail", NO_DECISION: "#mark-none"};

export function reasonOf(part) {
  if (part.verdict === "PASS") return "";
  return part.verdict === "FAIL" ? sentence(part.words) : `Not decided: ${part.words}`;
}

export const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);
export const nameOf = (part) => part.part_id || `no. ${part.seq}`;

export function pictureOf(part, name) {
  return `picture?${new URLSearchParams({camera: part.camera, epoch: part.epoch, seq: part.seq, name})}`;
}

// boxes over a picture, in the pixels of the original
export function drawBoxes(svg, part) {
  svg.setAttribute("viewBox", `0 0 ${part.width || 1} ${part.height || 1}`);
  svg.replaceChildren(...(part.width ? part.regions : []).flatMap((box) => [rect(box, "under"), rect(box, "box")]));
}

function rect([x, y, width, height], name) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({x, y, width, height, class: name})) made.setAttribute(key, value);
  return made;
}
