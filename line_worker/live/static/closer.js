// One part, large: original, marked places, overlay; and what the operator says of it.

import {$, clock, drawBoxes, element, limitOf, ms, nameOf, pictureOf, reasonOf, remember, remembered, scoreOf, text, WORDS} from "./tools.js";

const CHOICES = {
  PASS: [["good", "Good indeed"], ["missed_defect", "Missed defect"]],
  FAIL: [["true_defect", "True defect"], ["false_reject", "False reject"]],
  NO_DECISION: [["true_defect", "True defect"], ["false_reject", "False reject"]],
};
const SAID = Object.fromEntries(Object.values(CHOICES).flat());
let part = null;
let view = "marked";

export const said = (judgement) => SAID[judgement] ?? "";

export async function look(chosen) {
  part = {...chosen, pictures: []};
  show();
  if (!$("closer").open) $("closer").showModal();
  const {camera, epoch, seq} = part;
  await ask("keep", {camera, epoch, seq});
}

async function ask(path, body) {
  const {camera, epoch, seq} = part;
  try {
    const answer = await fetch(path, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), signal: AbortSignal.timeout(8000),
    });
    if (!answer.ok) throw new Error(await answer.text());
    const found = await answer.json();
    if (part.camera === camera && part.epoch === epoch && part.seq === seq) { // nobody has gone on to another part
      part = {...part, ...found};
      show();
    }
  } catch (error) {
    text("judged", `Not done: ${error.message}`);
  }
}

function show() {
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
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
    button.disabled = !part.pictures.includes(button.dataset.view === "overlay" ? "overlay" : "original");
  }
  const name = view === "overlay" && part.pictures.includes("overlay") ? "overlay" : "original";
  const there = part.pictures.includes(name);
  const image = $("closer-image");
  image.hidden = !there;
  $("closer-none").hidden = there;
  if (there && image.getAttribute("src") !== pictureOf(part, name)) image.src = pictureOf(part, name);
  if (!there) image.removeAttribute("src");
  image.alt = `Part ${nameOf(part)}, ${name}`;
  const marked = there && view === "marked";
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
$("close").addEventListener("click", () => $("closer").close());
$("closer-image").addEventListener("load", () => part && showPicture());
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => { view = button.dataset.view; showPicture(); });
}
