// The last rejects, as pictures with their reasons; each opens.

import {look} from "./closer.js";
import {$, clock, drawBoxes, element, nameOf, pictureOf, reasonOf} from "./tools.js";

const SHOWN = 24;
let shown = -1;
let asking = false;
let listed = [];

export async function refreshRejects(newest) {
  if (newest === shown || asking) return;
  asking = true;
  try {
    const answer = await fetch("rejects", {cache: "no-store", signal: AbortSignal.timeout(5000)});
    const {number, rejects} = await answer.json();
    shown = number;
    listed = rejects.slice(0, SHOWN);
    update(listed);
  } catch { /* the next part asks again */ } finally {
    asking = false;
  }
}

// cards that are there stay, so that the focus does, and no picture is loaded twice
function update(rejects) {
  const old = new Map([...$("gallery").children].map((card) => [card.dataset.key, card]));
  const cards = rejects.map((part) => {
    const key = `${part.camera}/${part.epoch}/${part.seq}/${Boolean(part.pictured)}`;
    return old.get(key) ?? card(part, key);
  });
  const kept = new Set(cards);
  for (const card of old.values()) if (!kept.has(card)) card.remove();
  cards.forEach((card, n) => {
    if ($("gallery").children[n] !== card) $("gallery").insertBefore(card, $("gallery").children[n] ?? null);
  });
  $("no-rejects").hidden = rejects.length > 0;
}

function card(part, key) {
  const words = element("span", {class: "words"}, element("strong", {}, nameOf(part)), ` ${clock(part.wall)}`);
  const reason = element("span", {}, reasonOf(part));
  const button = element("button", {type: "button", class: `card ${part.verdict}`}, pictured(part), words, reason);
  button.addEventListener("click", () => look(part, listed));
  const item = element("li", {}, button);
  item.dataset.key = key;
  return item;
}

function pictured(part) {
  if (!part.pictured) return element("span", {class: "thumb"}, "no picture");
  const boxes = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawBoxes(boxes, part);
  return element("span", {class: "thumb"}, element("img", {src: pictureOf(part, "small"), alt: ""}), boxes);
}
