// The limit: how the last parts scored, what another limit would have done to them, and having the hub use it.

import {$, clock, element, number, remember, remembered, text} from "./tools.js";

const EVERY_MS = 2000;
const BINS = 48;
const HIGHEST = 3; // times the bundle's own: the hub takes no more
const WIDE = 960, TALL = 220;
let limits = {};
let known = null; // the scores of the camera that is looked at
let tried = null; // null: the limit in use

const camera = () => $("limit-camera").value;
const limit = () => limits[camera()];
const wanted = () => tried ?? limit().at;
const above = (scores, at) => scores.reduce((count, score) => count + (score > at), 0);
const many = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

export function showLimits(board) {
  limits = board.thresholds;
  const names = Object.keys(limits);
  const less = names.filter((name) => limits[name].less_sensitive);
  $("less").hidden = less.length === 0;
  text("less-words", less.map((name) => `LESS SENSITIVE: camera ${name} fails parts above ${shown(limits[name].at)}, `
    + `the bundle's own limit is ${shown(limits[name].own)}. More defects may pass.`).join(" "));
  $("limit").hidden = names.length === 0;
  if (!names.length) return;
  const choice = $("limit-camera");
  if ([...choice.options].map((one) => one.value).join() !== names.join()) {
    choice.replaceChildren(...names.map((name) => element("option", {value: name}, name)));
    $("limit-choice").hidden = names.length < 2;
  }
  const {at, own} = limit();
  text("limit-now", `In use at camera ${camera()}: ${shown(at)}${at === own ? ", the bundle's own limit" : `; the bundle's own limit is ${shown(own)}`}`);
  text("limit-back", `Back to the bundle's own limit (${shown(own)})`);
  $("limit-back").disabled = at === own;
  showChanges(board.threshold_changes);
  if ($("explorer").open) draw();
}

const shown = (value) => Number(value.toPrecision(4)).toString();

function showChanges(changes) {
  const lines = changes.map((one) => `${new Date(one.wall * 1000).toLocaleDateString("en-CA")} ${clock(one.wall)} ${one.who}: `
    + `camera ${one.camera} from ${shown(one.from)} to ${shown(one.to)}`);
  if ($("limit-changes").dataset.told === lines.join()) return;
  $("limit-changes").dataset.told = lines.join();
  $("limit-changed").hidden = lines.length === 0;
  $("limit-changes").replaceChildren(...lines.map((line) => element("li", {}, line)));
}

async function refresh() {
  if (!$("explorer").open || document.hidden || !limit()) return;
  try {
    const answer = await fetch(`scores?${new URLSearchParams({camera: camera()})}`, {cache: "no-store", signal: AbortSignal.timeout(8000)});
    if (!answer.ok) throw new Error(await answer.text());
    known = await answer.json();
    draw();
  } catch (error) {
    text("limit-effect", `The scores cannot be shown: ${error.message}`);
  }
}

function draw() {
  if (!known || !limit() || known.camera !== camera()) return;
  const {at, own} = limit();
  const try_ = $("limit-at"), slide = $("limit-slide");
  for (const input of [try_, slide]) {
    input.max = HIGHEST * own;
    if (document.activeElement !== input) input.value = shown(wanted());
  }
  $("limit-sure").hidden = !(wanted() > own);
  $("limit-sure-box").required = wanted() > own;
  $("limit-set").disabled = wanted() === at;
  drawScores(at, own);
  showEffect(at);
}

function drawScores(at, own) {
  const end = HIGHEST * own;
  const counts = new Array(BINS + 1).fill(0);
  for (const score of known.scores) counts[Math.min(BINS, Math.max(0, Math.floor(score / end * BINS)))] += 1;
  const most = Math.max(1, ...counts), step = WIDE / (BINS + 1);
  const place = (value) => value / end * step * BINS;
  const bars = counts.map((count, n) => {
    const tall = count ? Math.max(3, (TALL - 30) * Math.log1p(count) / Math.log1p(most)) : 0;
    const name = n * end / BINS >= wanted() ? "fails" : "passes";
    return shape("rect", {x: n * step + 1, y: TALL - tall, width: step - 2, height: tall, class: name});
  });
  const lines = [["own", own], ["used", at], ["tried", wanted()]].map(([name, value]) =>
    shape("line", {x1: place(value), x2: place(value), y1: 0, y2: TALL, class: name}));
  $("scores").replaceChildren(...bars, ...lines);
  const words = `${many(known.scores.length, "score")} from ${shown(Math.min(...known.scores))} to ${shown(Math.max(...known.scores))}, ${number(counts[BINS])} beyond the scale`;
  $("scores").setAttribute("aria-label", known.scores.length ? words : "No part was scored yet");
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function showEffect(at) {
  const {scores, judged, undecided} = known;
  const now = above(scores, at), then = above(scores, wanted());
  const change = then === now ? "as many as with the limit in use" : `${number(Math.abs(then - now))} ${then > now ? "more" : "fewer"} than with the limit in use`;
  const lines = [`A limit of ${shown(wanted())} rejects ${number(then)} of the last ${many(scores.length, "scored part")}, ${change}.`];
  if (undecided) lines.push(`${many(undecided, "other part")} ${undecided === 1 ? "was" : "were"} not decided: no limit changes that.`);
  for (const [words, defective] of [["true defect", true], ["good part", false]]) {
    const of = judged.filter(([, bad]) => bad === defective).map(([score]) => score);
    if (of.length) lines.push(`Of ${many(of.length, `judged ${words}`)} it rejects ${number(above(of, wanted()))}, the limit in use ${number(above(of, at))}.`);
  }
  if (!judged.length) lines.push("No part of this bundle was judged yet: what passes that should not, nobody can tell.");
  text("limit-effect", lines.join(" "));
}

async function change(at) {
  const who = $("limit-who").value.trim();
  if (!who) {
    $("limit-who").reportValidity();
    return;
  }
  remember("who", who);
  text("limit-done", "Asking the hub");
  const body = JSON.stringify({camera: camera(), at, who, less_sensitive: $("limit-sure-box").checked});
  try {
    const answer = await fetch("threshold", {method: "POST", headers: {"Content-Type": "application/json"}, body, signal: AbortSignal.timeout(8000)});
    if (!answer.ok) throw new Error(await answer.text());
    const done = await answer.json();
    tried = null;
    $("limit-sure-box").checked = false;
    text("limit-done", `Camera ${done.camera}: parts that come from now on fail above ${shown(done.after ?? done.own)}; it was ${shown(done.before)}.`);
  } catch (error) {
    text("limit-done", `Not done: ${error.message}`);
  }
}

function attempt(event) {
  const value = Number(event.target.value);
  tried = value > 0 ? value : null;
  for (const input of [$("limit-at"), $("limit-slide")]) if (input !== event.target) input.value = wanted();
  draw();
}

$("limit-who").value = remembered("who");
$("limit-at").addEventListener("input", attempt);
$("limit-slide").addEventListener("input", attempt);
$("limit-camera").addEventListener("change", () => { tried = known = null; refresh(); });
$("explorer").addEventListener("toggle", refresh);
$("limit-form").addEventListener("submit", (event) => { event.preventDefault(); change(wanted()); });
$("limit-back").addEventListener("click", () => change(null));
$("less-look").addEventListener("click", () => { $("explorer").open = true; $("explorer").scrollIntoView(); $("limit-back").focus(); });
setInterval(refresh, EVERY_MS);
