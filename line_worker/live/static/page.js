// Follows the line: asks for the next part only when the one before has been drawn. No libraries, no build.

import {showReasons} from "./history.js";
import {showLimits} from "./limit.js";
import {forget, longestShown, showBoard, showPart} from "./newest.js";
import {refreshRejects} from "./rejects.js";
import {$, pause, painted, remember, remembered} from "./tools.js";

const PATIENCE_MS = 5000;
const BOARD_MS = 250; // numbers that change more often cannot be read, and cost a layout each time
const decoder = new TextDecoder();
let seen = "";
let drawnAt = 0;
let boardAt = -Infinity;

async function next(camera) {
  const board = performance.now() - boardAt < BOARD_MS ? 0 : 1;
  const query = new URLSearchParams({seen, camera, longest: longestShown(), board});
  const answer = await fetch(`next?${query}`, {cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS)});
  if (answer.status === 401) location.assign("login");
  if (!answer.ok) throw new Error(await answer.text());
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const end = bytes.indexOf(10);
  const told = JSON.parse(decoder.decode(bytes.subarray(0, end)));
  return [told, bytes.subarray(end + 1)];
}

async function follow() {
  for (;;) {
    try {
      const camera = $("camera").value;
      const [told, jpeg] = await next(camera);
      if (told.board) showNumbers(told.board);
      if (told.part && await showPart(told.part, jpeg, () => camera === $("camera").value)) {
        seen = String(told.number);
        drawnAt = performance.now();
      }
      refreshRejects(told.rejects);
      await painted();
    } catch (error) {
      lost();
      await pause(500);
    }
  }
}

function showNumbers(board) {
  boardAt = performance.now();
  showBoard(board);
  showReasons(board.reasons);
  showLimits(board);
  document.body.classList.toggle("old", board.state === "SILENT");
}

function lost() {
  boardAt = -Infinity;
  document.body.classList.add("old");
  $("state").dataset.state = "SILENT";
  $("state-words").textContent = "Page not connected";
  const since = drawnAt ? ` What is shown is ${Math.round((performance.now() - drawnAt) / 1000)} s old.` : "";
  $("cause").textContent = `The station does not answer this browser.${since}`;
}

function useTheme(theme) {
  document.documentElement.dataset.theme = theme;
  remember("theme", theme);
}

const dark = matchMedia("(prefers-color-scheme: dark)").matches;
useTheme(remembered("theme") || (dark ? "dark" : "light"));
$("theme").addEventListener("click", () => useTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
$("camera").addEventListener("change", () => { seen = ""; forget($("camera").value); });
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "t") $("theme").click();
  if (event.key === "l" && !$("look").hidden) $("look").click();
});
follow();
