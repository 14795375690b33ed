# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---
# %% [markdown]
# # Train, and read the report
#
# Twenty-four good pictures of a bracket are drawn, a bundle is trained on them, and its figures are read one by one.
# Open it with `jupytext --to notebook` or run it as it is; everything is written to a temporary folder.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np

from calib.options import TrainOptions
from calib.train import train
from line_worker.images import save_png
from line_worker.source.drawing import draw_part

folder = Path(os.environ.get("LINE_WORKER_NOTEBOOK", "") or tempfile.mkdtemp())
good = folder / "good"
good.mkdir(parents=True, exist_ok=True)
dice = np.random.default_rng(1)
for number in range(24):
    save_png(good / f"{number:02d}.png", draw_part(dice, size=(240, 320)).image)

# %% [markdown]
# With your own pictures this is all there is to it. `memory` is quick; leave it out for `hybrid`, which finds more.

# %%
result = train(TrainOptions(good, folder / "bracket.bundle", reconstruct="memory", repeats=2, false_reject=0.05))
print(f"{result.images} images, {result.seconds:.0f} s")

# %% [markdown]
# **What was chosen, and why.** Where the part is, how it is turned, and whether each place has a memory of its own.

# %%
for note in result.notes:
    print("-", note)

# %% [markdown]
# **How often it will reject a good part.** With so few pictures the interval is wide: that is what more pictures buy.

# %%
limit = result.limit
print(f"of 1,000 good parts about {1000 * limit.expected:.0f} are rejected")
print(f"with 95 % certainty between {1000 * limit.low:.1f} and {1000 * limit.high:.0f}")

# %% [markdown]
# **What it would find.** Defects were painted on pictures that the judging model had not seen.

# %%
assert result.power is not None
print(result.power.summary())

# %% [markdown]
# The same, with pictures, is in the report.

# %%
print(result.bundle.path / "report.html")
