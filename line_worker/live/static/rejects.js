// The last rejects, as pictures with their reasons.

import {$, clock, element, nameOf, reasonOf, text} from "./tools.js";

let shown = -1;
let asking = false;

export async function refreshRejects(newest) {
  if (newest === shown || asking) return;
  asking = true;
  try {
    const answer = await fetch("rejects", {cache: "no-store", signal: AbortSignal.timeout(5000)});
    const {number, rejects} = await answer.json();
    shown = number;
    $("gallery").replaceChildren(...rejects.slice(0, 24).map(card));
    $("no-rejects").hidden = rejects.length > 0;
  } catch { /* the next part asks again */ } finally {
    asking = false;
  }
}

function card(part) {
  return element("li", {}, element("strong", {}, nameOf(part)), element("p", {}, `${clock(part.wall)} ${reasonOf(part)}`));
}
