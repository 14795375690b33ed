"""The report's page: one file, no script, nothing from outside, readable on a phone and on paper."""

from __future__ import annotations

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --ink: #1d2733; --soft: #5b6875; --line: #dde3e9; --good: #2f8f4e; --bad: #c9372c; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f5f7; color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 0 0 8px; }
p { margin: 0 0 10px; max-width: 74ch; } .soft { color: var(--soft); font-size: 14px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 20px; }
section { margin-top: 18px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin-top: 18px; }
.figure { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 14px 18px; }
.figure b { display: block; font-size: 30px; line-height: 1.2; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax($cell, 1fr)); gap: 14px; }
figure { margin: 0; } figure img { width: 100%; display: block; border: 1px solid var(--line); border-radius: 4px; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 4px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); } figcaption b.bad { color: var(--bad); }
.scale { display: flex; align-items: center; gap: 8px; font-size: 13px; color: var(--soft); margin-top: 4px; }
.scale i { flex: 1; height: 10px; border-radius: 3px;
  background: linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725); }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--soft); }
svg .good { fill: var(--good); } svg .bad { fill: var(--bad); } svg .axis { stroke: var(--soft); }
svg line.limit { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 6 4; } svg text.limit { fill: var(--bad); }
table { border-collapse: collapse; font-size: 14px; } td, th { padding: 4px 14px 4px 0; text-align: left; }
th { color: var(--soft); font-weight: 500; }
.warn { border-left: 4px solid #d98a00; padding-left: 12px; }
</style></head><body><main>
<h1>$title</h1>
<p class="soft">$subtitle</p>
<div class="figures">$figures</div>
<section><h2>How often it will reject a good part</h2>$rejects$histogram
<p class="soft">Every good image was scored by a model and by statistics that had not seen it, so these scores are
what new good parts can be expected to get.</p></section>
<section><h2>What it will reject</h2>$rule<ul>$chosen</ul></section>
$found
$power
$bad
<section><h2>What it learned, zone by zone</h2>
<p>The part is divided into small zones. Each has its own usual error and its own spread: a thread or a textured face is
allowed more than a plain surface. A defect is easiest to see where both are small (dark).</p>
<div class="grid">$zones</div></section>
<section><h2>The most unusual good parts</h2>
<p>$suspicious</p><div class="grid">$worst</div></section>
<section><h2>The most ordinary good parts</h2><div class="grid">$best</div></section>
<section><h2>Where it looks: maps of one ordinary and one unusual part</h2>
<div class="grid">$maps</div></section>
$undecided
<section><h2>How it was made</h2><table>$settings</table></section>
</main></body></html>
""")


def figure(value: str, words: str) -> str:
    """Return a large number with what it means."""
    return f'<div class="figure"><b>{value}</b>{words}</div>'


def picture(uri: str, caption: str) -> str:
    """Return a picture with its caption, both safe HTML already."""
    return f'<figure><img alt="" src="{uri}"><figcaption>{caption}</figcaption></figure>'


def scale(low: float, high: float) -> str:
    """Return the legend of a heat map."""
    return f'<span class="scale">{low:.2f}<i></i>{high:.2f}</span>'


def row(name: str, value: str) -> str:
    """Return a row of the settings' table."""
    return f"<tr><th>{name}</th><td>{value}</td></tr>"
