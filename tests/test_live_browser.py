"""The page in a real browser, beside a real line: headless Chromium, driven over the pipe of its DevTools protocol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.browser import CHROMIUM, MISSING, Chromium
from line_worker.ports import free_port

# ---- the line --------------------------------------------------------------------------------------------------------

COMMAND = str(Path(sys.executable).parent / "line-worker")
ROOT = Path(__file__).parent.parent
AXE = ROOT / ".axe" / "package" / "axe.min.js"
MINUTES = float(os.environ.get("LIVE_MINUTES", "0.25"))  # `make live` watches for ten

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


class Served:
    """`line-worker serve` with a page."""

    def __init__(self, folder: Path, bundle: Path, port: int) -> None:
        self.url, self._folder = f"http://127.0.0.1:{port}/", folder
        height, width = 240, 320
        (folder / "line.toml").write_text(f"""
[line]
name = "station-1"
runtime = "{folder}/run"
data = "{folder}/data"
[[cameras]]
name = "top"
deadline_ms = 5000
source = {{ kind = "synthetic", rate = 4, defects = 0.4, width = {width}, height = {height} }}
[workers]
bundle = "{bundle}"
[[sinks]]
kind = "store"
[[sinks]]
kind = "live"
port = {port}
""")
        with (folder / "line.log").open("wb") as log:
            self.process = subprocess.Popen([COMMAND, "serve", str(folder / "line.toml")], stderr=log, stdout=log)

    def kill(self, role: str, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(int((self._folder / "run" / f"{role}.lock").read_text()), how)

    def close(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0, (self._folder / "line.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def line(tiny_bundle: Path) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        found = Served(Path(folder), tiny_bundle, free_port())
        yield found
        found.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        found = Chromium(Path(folder) / "profile")
        yield found
        found.close()


@pytest.fixture
def page(line: Served, browser: Chromium) -> Iterator[Chromium]:
    """Return the browser with the page open and a part on it."""
    until = time.monotonic() + 60
    while True:
        with suppress(OSError), urllib.request.urlopen(line.url, timeout=5):
            break
        assert time.monotonic() < until
        time.sleep(0.2)
    browser.errors.clear()
    browser.open(line.url)
    browser.until("['PASS', 'FAIL'].includes(document.getElementById('newest')?.dataset.verdict)", 60)
    yield browser
    assert not browser.errors


WATCH = """
window.seen = {};
new MutationObserver(() => {
  const part = document.querySelector('#facts dd').textContent;
  window.seen[part] ??= [document.getElementById('newest').dataset.verdict, Date.now() / 1000];
}).observe(document.getElementById('facts'), {childList: true});
"""


def test_a_reject_is_shown_within_a_second(page: Chromium) -> None:
    page.eval(WATCH)
    page.until("Object.values(window.seen).filter(([verdict]) => verdict === 'FAIL').length >= 3")
    rejects = page.eval("fetch('rejects').then((answer) => answer.json())")["rejects"]
    seen = page.eval("window.seen")
    waits = [seen[one["part_id"]][1] - one["wall"] for one in rejects if seen.get(one["part_id"], [""])[0] == "FAIL"]
    assert len(waits) >= 3
    assert max(waits) < 1.0, "from the decision until it is on the screen"


def test_a_verdict_is_a_word_a_shape_and_a_colour(page: Chromium) -> None:
    look = """[document.getElementById('word').textContent, document.getElementById('mark').getAttribute('href'),
      getComputedStyle(document.getElementById('verdict')).backgroundColor]"""
    looks = set()
    for verdict in ("PASS", "FAIL"):
        shows = f"document.getElementById('newest').dataset.verdict === '{verdict}'"
        page.until(f"window.look = {shows} && {look}")
        looks.add(tuple(page.eval("window.look")))
    assert {word for word, _, _ in looks} == {"PASS", "REJECT"}
    assert [len({one[n] for one in looks}) for n in range(3)] == [2, 2, 2]


def test_the_places_that_differ_are_marked_on_the_picture(page: Chromium) -> None:
    page.until("document.querySelectorAll('#boxes rect').length > 0")
    page.until("document.getElementById('canvas').width === 320")


def test_the_page_survives_a_restart_of_the_hub(page: Chromium, line: Served) -> None:
    page.eval("window.mark = 1; window.states = new Set(); new MutationObserver(() => "
              "window.states.add(document.getElementById('state').dataset.state)).observe("
              "document.getElementById('state'), {attributes: true})")  # fmt: skip
    line.kill("hub", signal.SIGSTOP)  # the supervisor ends it after two seconds, one more than the page waits
    page.until("window.states.has('SILENT') || window.states.has('DEGRADED')", 30)
    page.until("document.getElementById('state').dataset.state === 'RUNNING'", 60)
    page.eval(WATCH)
    page.until("Object.keys(window.seen).length >= 3", 30)
    assert page.eval("window.mark") == 1, "nobody had to load it again"


def test_the_page_comes_back_when_its_own_process_does(page: Chromium, line: Served) -> None:
    page.eval("window.mark = 1")
    line.kill("sink-live")
    page.until("document.getElementById('state-words').textContent === 'Page not connected'", 30)
    assert page.eval("document.body.classList.contains('old')"), "what is old does not look new"
    page.until("document.getElementById('state').dataset.state === 'RUNNING'", 60)
    assert page.eval("window.mark") == 1
    page.errors.clear()  # of the connection that was lost


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing: make axe")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("closer", [False, True], ids=["page", "closer look"])
def test_the_page_obeys_the_rules_of_accessibility(page: Chromium, theme: str, closer: bool) -> None:
    page.call("Page.setBypassCSP", enabled=True)
    page.eval(f"document.documentElement.dataset.theme = '{theme}'")
    page.until("document.querySelectorAll('#gallery li').length > 0")
    page.eval("document.querySelector('#search').requestSubmit()")
    page.until("document.querySelectorAll('#rows tr').length > 0")
    page.eval("document.getElementById('explorer').open = true")
    page.until("document.querySelectorAll('#scores rect').length > 10", 30)
    page.eval(AXE.read_text("utf-8") + "; 0")
    if closer:
        page.eval("document.querySelector('#gallery button').click()")
        page.until("document.getElementById('closer').open")
    found = page.eval("axe.run().then(({violations}) => violations.map("
                      "({id, help, nodes}) => `${id}: ${help}: ${nodes.map((n) => n.html).join(' ')}`))")  # fmt: skip
    assert found == []


def press(page: Chromium, key: str, code: int) -> None:
    text = {"text": "\r"} if key == "Enter" else {}
    page.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
    page.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)


def test_a_reject_is_opened_and_judged_by_keyboard_alone(page: Chromium) -> None:
    page.until("document.querySelector('#gallery .FAIL img')", 30)
    page.eval("document.querySelector('#gallery .FAIL:has(img)').focus()")
    press(page, "Enter", 13)
    page.until("document.getElementById('closer').open")
    title = page.eval("document.getElementById('closer-title').textContent")
    if not page.eval("document.getElementById('earlier').disabled"):
        press(page, "ArrowRight", 39)
        page.until(f"document.getElementById('closer-title').textContent !== {title!r}")
        press(page, "ArrowLeft", 37)
    page.until(f"document.getElementById('closer-title').textContent === {title!r}")
    page.until("document.getElementById('closer').open && document.getElementById('closer-image').naturalWidth === 320")
    page.eval("document.getElementById('who').focus()")
    page.call("Input.insertText", text="Ada")
    press(page, "Tab", 9)
    press(page, "Enter", 13)
    page.until("document.getElementById('judged').textContent.startsWith('True defect, said Ada')")
    press(page, "Escape", 27)
    page.until("!document.getElementById('closer').open")


def test_a_part_on_the_screen_is_held_for_a_closer_look(page: Chromium) -> None:
    press(page, "l", 76)
    page.until("document.getElementById('closer').open && document.getElementById('closer-image').naturalWidth === 320")
    title = page.eval("document.getElementById('closer-title').textContent")
    time.sleep(1)
    assert page.eval("document.getElementById('closer-title').textContent") == title, "the next parts do not replace it"


def test_a_reject_is_explained_by_its_map_and_the_limits_of_its_zones(page: Chromium) -> None:
    page.until("document.querySelector('#gallery .FAIL img')", 30)
    page.eval("document.querySelector('#gallery .FAIL:has(img)').click()")
    for view in ("overlay", "map", "zones"):
        button = f"document.querySelector('[data-view={view}]')"
        page.until(f"!{button}.disabled", 30)
        page.eval(f"{button}.click()")
        page.until("document.getElementById('closer-image').naturalWidth === 320")
        assert page.eval("document.getElementById('closer-image').getAttribute('src')").endswith(f"name={view}")
        assert page.eval(f"{button}.getAttribute('aria-pressed')") == "true"


def test_another_limit_is_tried_used_and_taken_back(page: Chromium) -> None:
    def tell(name: str, value: str) -> None:
        page.eval(f"document.getElementById('{name}').value = '{value}'")
        page.eval(f"document.getElementById('{name}').dispatchEvent(new Event('input', {{bubbles: true}}))")

    page.eval("document.getElementById('explorer').open = true")
    page.until("document.querySelectorAll('#scores rect').length > 10", 30)
    page.until("document.getElementById('limit-effect').textContent.startsWith('A limit of ')")
    own = float(page.eval("Number(document.getElementById('limit-at').value)"))
    tell("limit-at", "0.000001")
    counts = "document.getElementById('limit-effect').textContent.match(/rejects (\\d+) of the last (\\d+) scored/)"
    page.until(f"{counts} && Number({counts}[1]) > 0.9 * Number({counts}[2])")  # a score of 0 is below any limit
    tell("limit-at", str(1.5 * own))
    tell("limit-who", "Ada")
    page.eval("document.getElementById('limit-set').click()")
    assert page.eval("document.getElementById('limit-done').textContent") == "", "nobody has said that he knows"
    page.eval("document.getElementById('limit-sure-box').click()")
    page.eval("document.getElementById('limit-set').click()")
    page.until("!document.getElementById('less').hidden", 30)
    assert "LESS SENSITIVE: camera top" in page.eval("document.getElementById('less-words').textContent")
    page.until("document.getElementById('warnings').textContent.includes('LESS SENSITIVE')", 30)
    page.until("document.getElementById('limit-changes').textContent.includes('Ada: camera top from')")
    page.eval("document.getElementById('limit-back').click()")
    page.until("document.getElementById('less').hidden && document.getElementById('limit-back').disabled", 30)


def test_another_camera_does_not_show_the_part_of_the_one_before(page: Chromium) -> None:
    page.eval("""document.getElementById('camera').append(new Option('nobody', 'nobody'))""")
    changed = "document.getElementById('camera').dispatchEvent(new Event('change'))"
    page.eval(f"document.getElementById('camera').value = 'nobody'; {changed}")
    shown = "document.getElementById('newest').dataset.verdict"
    assert page.eval(shown) == "WAIT"
    time.sleep(1.0)  # some parts come meanwhile
    assert page.eval(shown) == "WAIT"
    page.eval("document.getElementById('camera').lastChild.remove()")
    page.eval(changed)
    page.until(f"{shown} !== 'WAIT'")


def test_a_camera_that_is_chosen_while_a_picture_is_decoded_does_not_show_that_part(page: Chromium) -> None:
    page.until("document.getElementById('newest').dataset.verdict !== 'WAIT'")
    page.eval("""
        document.getElementById('camera').append(new Option('all', ''), new Option('nobody', 'nobody'));
        window.decode = window.createImageBitmap;
        window.createImageBitmap = async (blob) => {
            const bitmap = await window.decode(blob);
            document.getElementById('camera').value = 'nobody';
            document.getElementById('camera').dispatchEvent(new Event('change'));
            window.chosen = true;
            return bitmap;
        };""")
    page.until("window.chosen")
    time.sleep(0.5)
    assert page.eval("document.getElementById('newest').dataset.verdict") == "WAIT"
    page.eval("""
        window.createImageBitmap = window.decode;
        document.getElementById('camera').replaceChildren();
        document.getElementById('camera').dispatchEvent(new Event('change'))""")
    page.until("document.getElementById('newest').dataset.verdict !== 'WAIT'")


def test_history_is_searched(page: Chromium) -> None:
    page.until("document.querySelectorAll('#gallery li').length > 0", 30)
    page.eval("document.querySelector('#search [name=verdict]').value = 'FAIL'")
    page.eval("document.querySelector('#search').requestSubmit()")
    page.until("document.querySelectorAll('#rows tr').length > 0")
    page.eval("document.querySelector('#rows button').click()")
    page.until("document.getElementById('closer-verdict').textContent === 'REJECT: Looks unlike good parts'")


@pytest.mark.long
def test_the_page_does_not_grow(page: Chromium) -> None:
    def size() -> tuple[int, int]:
        page.eval("gc(); 0")
        counters = page.call("Memory.getDOMCounters")
        return page.call("Runtime.getHeapUsage")["usedSize"], counters["nodes"]

    page.until("document.querySelectorAll('#gallery li').length >= 8", 60)
    samples = []
    for _ in range(9):
        time.sleep(MINUTES * 60 / 8)
        samples.append(size())
    (_, nodes), (_, more) = samples[2], samples[-1]
    slope = (min(heap for heap, _ in samples[-3:]) - min(heap for heap, _ in samples[:3])) / MINUTES
    assert slope < max(100_000, 400_000 / MINUTES), f"bytes of JavaScript a minute; {samples}"
    assert more - nodes < 1500, f"{samples}"
