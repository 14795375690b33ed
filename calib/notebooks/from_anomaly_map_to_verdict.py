# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---
# %% [markdown]
# # From an anomaly map to a verdict
#
# One defective part goes through the stages of `line_worker/vision/inspection.py` by hand: straightened, compared with
# what good parts show, held against the limit.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from calib.options import TrainOptions
from calib.train import train
from line_worker.images import save_png
from line_worker.source.drawing import draw_part
from line_worker.vision.cells import batch
from line_worker.vision.crop import overlay
from line_worker.vision.decide import decide, p_value
from line_worker.vision.inspection import Inspection
from line_worker.vision.score import scores, standardise

folder = Path(os.environ.get("LINE_WORKER_NOTEBOOK", "") or tempfile.mkdtemp())
good = folder / "good"
good.mkdir(parents=True, exist_ok=True)
dice = np.random.default_rng(2)
for number in range(24):
    save_png(good / f"{number:02d}.png", draw_part(dice, size=(240, 320)).image)
options = TrainOptions(good, folder / "bracket.bundle", reconstruct="memory", repeats=0, false_reject=0.05)
inspection = Inspection.from_bundle(train(options).bundle)

# %% [markdown]
# **Locate and rectify.** Wherever the part lies, its canonical picture is the same; `matrix` leads back to the photo.

# %%
part = draw_part(dice, defect="missing", size=(240, 320))
rectified = inspection.rectifier.rectify(part.image)
print(rectified.canonical.shape, rectified.reason.name, f"fits the template to {rectified.quality:.2f}")

# %% [markdown]
# **Reconstruct.** How far each cell's features are from anything that good parts showed there.

# %%
with torch.inference_mode():
    errors = inspection.reconstructor(batch([rectified.canonical]))
print("error maps", tuple(errors.shape))

# %% [markdown]
# **Score.** In units of what is usual; the largest value on the part is its score.

# %%
standard = inspection.standard
z = standardise(errors, standard.zones)
value = float(scores(standard.decisions(errors)))
row, col = divmod(int(z[0, 0].argmax()), z.shape[3])
print(f"worst cell: row {row}, column {col}, {float(z.max()):.1f} sigma; score {value:.2f}")

# %% [markdown]
# **Decide.** Against the limit that good parts set; the p-value says how many good parts score as much.

# %%
print(
    decide(value, standard.threshold).name, f"limit {standard.threshold:.2f}, p = {p_value(value, standard.good):.3f}"
)

# %% [markdown]
# The line does all of this in one call, and finds boxes in the photo with the figures that led to them.

# %%
inspected = inspection.inspect([part.image])[0]
assert inspected.score == value
for box in inspected.boxes:
    print(box)
save_png(folder / "overlay.png", overlay(part.image, inspected))
