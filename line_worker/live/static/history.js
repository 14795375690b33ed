// Parts from the store, by time, part id, verdict and reason.

import {look, said} from "./closer.js";
import {$, clock, element, nameOf, reasonOf, scoreOf, text, WORDS} from "./tools.js";

let asked = null;
let oldest = null;
let found = [];

// from the newest, or from those that come after `last`
async function search(last) {
  const query = new URLSearchParams(asked);
  if (last) {
    query.set("before", last.wall);
    query.set("behind", `${last.camera}/${last.epoch}/${last.seq}`);
  }
  text("found", "Searching");
  try {
    const answer = await fetch(`history?${query}`, {cache: "no-store", signal: AbortSignal.timeout(20000)});
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json(), Boolean(last));
  } catch (error) {
    text("found", `Nothing was found: ${error.message}`);
  }
}

function show({parts, more, whole}, further) {
  if (!further) $("rows").replaceChildren();
  found = further ? [...found, ...parts] : parts;
  $("rows").append(...parts.map(row));
  oldest = parts.at(-1) ?? oldest;
  const count = $("rows").children.length;
  $("table").hidden = count === 0;
  $("older").hidden = !more && (whole || !parts.length);
  const rest = whole ? (more ? ", and older ones" : "") : ". There are too many to look at all of them: say from when until when";
  text("found", count || !whole ? `${count} parts${rest}` : "No part was found");
}

function row(part) {
  const open = element("button", {type: "button"}, nameOf(part));
  open.addEventListener("click", () => look(part, found));
  const day = new Date(part.wall * 1000).toLocaleDateString("en-CA");
  const verdict = [WORDS[part.verdict], reasonOf(part)].filter(Boolean).join(": ");
  const cells = [`${day} ${clock(part.wall)}`, open, part.camera, verdict, scoreOf(part), said(part.judgement)];
  return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const time = (name) => (form.get(name) ? String(new Date(form.get(name)).getTime() / 1000) : "");
  asked = {part: form.get("part"), verdict: form.get("verdict"), reason: form.get("reason"), since: time("since"), before: time("before")};
  search(null);
});
$("older").addEventListener("click", () => search(oldest));

export function showReasons(reasons) {
  const choice = $("search").elements.reason;
  if (choice.options.length > 1) return;
  choice.append(...Object.entries(reasons).map(([name, words]) => element("option", {value: name}, words)));
}
