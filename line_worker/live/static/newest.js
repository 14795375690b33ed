// The newest part, and the numbers beside it.

import {look} from "./closer.js";
import {$, clock, drawBoxes, element, limitOf, MARKS, ms, nameOf, number, percent, reasonOf, scoreOf, text, WORDS} from "./tools.js";

let newest = null;

// false if it is not `wanted` any more when it could be shown
export async function showPart(part, jpeg, wanted) {
  const bitmap = jpeg.length ? await createImageBitmap(new Blob([jpeg], {type: "image/jpeg"})) : null;
  if (!wanted()) return false;
  newest = part;
  const canvas = $("canvas");
  if (bitmap && (canvas.width !== bitmap.width || canvas.height !== bitmap.height)) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap); // without one it is cleared
  $("no-picture").hidden = Boolean(bitmap);
  text("no-picture", "No picture of this part");
  drawBoxes($("boxes"), bitmap ? part : {regions: []});
  showVerdict(part, Boolean(bitmap));
  $("look").hidden = false;
  return true;
}

// another camera was chosen: what is shown is not its part
export function forget(camera) {
  newest = null;
  $("canvas").getContext("bitmaprenderer").transferFromImageBitmap(null);
  $("canvas").setAttribute("aria-label", "No picture yet");
  drawBoxes($("boxes"), {regions: []});
  $("newest").dataset.verdict = "WAIT";
  $("mark").setAttribute("href", "#mark-wait");
  text("word", "Waiting");
  text("reason", camera ? `No part of ${camera} yet` : "No part yet");
  text("no-picture", "No picture yet");
  $("no-picture").hidden = false;
  $("facts").replaceChildren();
  $("look").hidden = true;
}

// how large the picture is shown, in pixels of this screen: more would be sent and decoded in vain
export function longestShown() {
  const {clientWidth, clientHeight} = $("canvas");
  if (!newest?.width) return Math.ceil(Math.max(clientWidth, clientHeight) * devicePixelRatio);
  const scale = Math.min(clientWidth / newest.width, clientHeight / newest.height);
  return Math.ceil(scale * Math.max(newest.width, newest.height) * devicePixelRatio);
}

function showVerdict(part, pictured) {
  $("newest").dataset.verdict = part.verdict;
  $("mark").setAttribute("href", MARKS[part.verdict]);
  text("word", WORDS[part.verdict]);
  text("reason", reasonOf(part));
  const seen = `${WORDS[part.verdict]}, ${part.regions.length} marked places`;
  $("canvas").setAttribute("aria-label", `Part ${nameOf(part)}: ${pictured ? seen : "no picture"}`);
  const facts = [["Part", nameOf(part)], ["Camera", part.camera], ["Decided", `${clock(part.wall)}, in ${ms(part.latency_ms)} ms`]];
  if (part.score !== null) facts.push(["Score", scoreOf(part) + limitOf(part)]);
  $("facts").replaceChildren(...facts.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]));
}

// a tab that is not seen is not kept up to date, and so says nothing
function titleOf({state_words, line}) {
  document.title = document.hidden ? line : `${state_words} – ${line}`;
}

document.addEventListener("visibilitychange", () => titleOf({state_words: $("state-words").textContent, line: $("line").textContent}));

export function showBoard(board) {
  $("state").dataset.state = board.state;
  text("line", board.line);
  text("state-words", board.state_words);
  text("cause", board.cause);
  titleOf(board);
  $("stop").hidden = !board.stop;
  text("stop", board.stop ? `STOP THE LINE: ${board.stop}. Look into it, then: line-worker acknowledge` : "");
  showCameras(board.choices);
  showCounts(board);
  showLatency(board.cameras);
  text("queue", board.open_parts === null ? "–" : number(board.open_parts));
  text("workers", board.workers === null ? "" : `parts; ${board.workers} ${board.workers === 1 ? "worker" : "workers"} ready`);
  showOutputs(board.sinks);
  const others = board.warnings.filter((warning) => !board.alarms.some((alarm) => warning.endsWith(alarm)));
  const needs = [...board.alarms.map((alarm) => `Alarm: ${alarm}`), ...others];
  $("attention").hidden = needs.length === 0;
  list("warnings", [...new Set(needs)]);
}

function showCounts(board) {
  const {PASS = 0, FAIL = 0, NO_DECISION = 0} = board.counts;
  text("parts", number(PASS + FAIL + NO_DECISION));
  text("pace", `${board.parts_a_second.toFixed(1)} a second`);
  text("rejected", number(FAIL + NO_DECISION));
  text("rejected-more", `${number(FAIL)} defective, ${number(NO_DECISION)} not decided`);
  text("rate", board.recent.rate === null ? "–" : percent(board.recent.rate));
  text("rate-more", board.recent.parts ? `of the last ${number(board.recent.parts)}` : "");
}

function showLatency(cameras) {
  const [slowest] = Object.values(cameras).sort((a, b) => b.p99_ms / b.deadline_ms - a.p99_ms / a.deadline_ms);
  text("latency", slowest.p50_ms === null ? "–" : `${ms(slowest.p50_ms)} / ${ms(slowest.p99_ms)} ms`);
  const bars = $("latency-bars");
  const names = Object.keys(cameras);
  while (bars.children.length < names.length) bars.append(bar());
  names.forEach((name, n) => {
    const {p50_ms, p99_ms, deadline_ms} = cameras[name];
    const [words, box] = bars.children[n].children;
    const share = Math.min(1, (p99_ms ?? 0) / deadline_ms);
    box.classList.toggle("late", (p99_ms ?? 0) > 0.9 * deadline_ms);
    box.firstChild.style.width = `${100 * share}%`;
    box.lastChild.style.left = `${100 * Math.min(0.99, (p50_ms ?? 0) / deadline_ms)}%`;
    const which = names.length > 1 ? `${name}: ` : "";
    const told = `${which}half within ${ms(p50_ms)}, 99 % within ${ms(p99_ms)}, deadline ${ms(deadline_ms)} ms`;
    if (words.textContent !== told) words.textContent = told;
  });
}

function bar() {
  const box = element("div", {class: "bar", "aria-hidden": "true"}, element("i"), element("b"));
  return element("div", {}, element("p", {class: "more"}), box);
}

function showOutputs(sinks) {
  const names = Object.keys(sinks);
  const bad = names.filter((name) => !sinks[name]);
  text("sinks", names.length ? (bad.length ? `${bad.length} down` : "All well") : "–");
  list("sinks-more", names.map((name) => `${sinks[name] ? "✓" : "✕ not well:"} ${name}`));
}

$("look").addEventListener("click", () => look(newest));

function list(id, lines) {
  const told = lines.join("\n");
  if ($(id).dataset.told === told) return;
  $(id).dataset.told = told;
  $(id).replaceChildren(...lines.map((line) => element("li", {}, line)));
}

function showCameras(names) {
  const choice = $("camera");
  if (choice.options.length || names.length < 2) return;
  choice.append(element("option", {value: ""}, "all"), ...names.map((name) => element("option", {value: name}, name)));
  $("camera-choice").hidden = false;
}
