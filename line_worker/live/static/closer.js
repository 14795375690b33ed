// One part, large: original, marked places, overlay; and what the operator says of it.

import {$, clock, drawBoxes, element, limitOf, ms, nameOf, pause, pictureOf, reasonOf, remember, remembered, scoreOf, text, WORDS} from "./tools.js";

const CHOICES = {
  PASS: [["good", "Good indeed"], ["missed_defect", "Missed defect"]],
  FAIL: [["true_defect", "True defect"], ["false_reject", "False reject"]],
  NO_DECISION: [["true_defect", "True defect"], ["false_reject", "False reject"]],
};
const SAID = Object.fromEntries(Object.values(CHOICES).flat());
// views, and the picture that each needs; the worker draws the last three of what it rejects, small
const NEEDS = {marked: "original", original: "original", overlay: "overlay", map: "map", zones: "zones"};
const LATE_MS = 1500; // by then they have come, also those of the newest reject
let part = null;
let view = "marked";
let neighbours = [];

export const said = (judgement) => SAID[judgement] ?? "";

// `others` are the parts to leaf through, the newest first
export async function look(chosen, others = []) {
  part = {...chosen, pictures: []};
  neighbours = others;
  show();
  if (!$("closer").open) $("closer").showModal();
  const {camera, epoch, seq, verdict} = part;
  await ask("keep", {camera, epoch, seq});
  if (verdict !== "FAIL" || part.pictures.includes("zones")) return;
  await pause(LATE_MS);
  if (same(part, chosen) && $("closer").open) await ask("keep", {camera, epoch, seq});
}

async function ask(path, body) {
  const before = part;
  try {
    const answer = await fetch(path, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), signal: AbortSignal.timeout(8000),
    });
    if (!answer.ok) throw new Error(await answer.text());
    const found = await answer.json();
    if (same(part, before)) { // nobody has gone on to another part
      part = {...part, ...found};
      show();
    }
  } catch (error) {
    text("judged", `Not done: ${error.message}`);
  }
}

const same = (one, other) => one.camera === other.camera && one.epoch === other.epoch && one.seq === other.seq;

function neighbour(step) {
  const at = neighbours.findIndex((one) => same(one, part));
  return at < 0 ? undefined : neighbours[at + step];
}

function leaf(step) {
  const found = neighbour(step);
  if (found) look(found, neighbours);
}

function show() {
  $("newer").disabled = !neighbour(-1);
  $("earlier").disabled = !neighbour(1);
  text("closer-title", `Part ${nameOf(part)}`);
  $("closer-verdict").dataset.verdict = part.verdict;
  text("closer-verdict", [WORDS[part.verdict], reasonOf(part)].filter(Boolean).join(": "));
  const facts = [["Camera", part.camera], ["Decided", `${new Date(part.wall * 1000).toLocaleDateString("en-CA")} ${clock(part.wall)}, in ${ms(part.latency_ms)} ms`], ["Number", part.seq]];
  if (part.score !== null) facts.push(["Score", scoreOf(part) + limitOf(part)]);
  facts.push(["Bundle", part.bundle ? part.bundle.slice(0, 12) : "none"]);
  $("closer-facts").replaceChildren(...facts.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, String(value))]));
  showJudgement();
  showPicture();
}

function showPicture() {
  const has = (one) => part.pictures.includes(NEEDS[one]);
  const seen = has(view) ? view : Object.keys(NEEDS).find(has) ?? view;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === seen));
    button.disabled = !has(button.dataset.view);
  }
  const name = NEEDS[seen];
  const there = has(seen);
  const image = $("closer-image");
  image.hidden = !there;
  text("closer-none", "No picture of this part is kept");
  $("closer-none").hidden = there;
  if (there && image.getAttribute("src") !== pictureOf(part, name)) image.src = pictureOf(part, name);
  if (!there) image.removeAttribute("src");
  image.alt = `Part ${nameOf(part)}, ${name}`;
  const marked = there && seen === "marked";
  drawBoxes($("closer-boxes"), marked ? {...part, width: image.naturalWidth, height: image.naturalHeight} : {regions: []});
}

function showJudgement() {
  const buttons = CHOICES[part.verdict].map(([judgement, words]) => {
    const button = element("button", {value: judgement, "aria-pressed": String(part.judgement === judgement)}, words);
    return button;
  });
  $("judgements").replaceChildren(...buttons);
  text("judged", part.judgement ? `${said(part.judgement)}, said ${part.who} at ${clock(part.judged)}` : "");
}

function judge(event) {
  event.preventDefault();
  const who = $("who").value.trim();
  if (!who || !event.submitter?.value) return;
  remember("who", who);
  const {camera, epoch, seq} = part;
  ask("judge", {camera, epoch, seq, who, judgement: event.submitter.value});
}

$("who").value = remembered("who");
$("judge").addEventListener("submit", judge);
$("newer").addEventListener("click", () => leaf(-1));
$("earlier").addEventListener("click", () => leaf(1));
$("closer").addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowLeft") leaf(-1);
  if (event.key === "ArrowRight") leaf(1);
});
$("close").addEventListener("click", () => $("closer").close());
$("closer-image").addEventListener("load", () => part && showPicture());
$("closer-image").addEventListener("error", () => {
  $("closer-image").hidden = true;
  $("closer-image").removeAttribute("src"); // so that choosing it again asks again
  text("closer-none", "The picture did not come. Choose it again.");
  $("closer-none").hidden = false;
});
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => { view = button.dataset.view; showPicture(); });
}
