"""The inspection as one batch of tensors: pixels go up once, a few small maps come down, nothing in between.

Each file is the twin of one in `line_worker.vision`, which stays the definition and what a CPU runs; the tests hold the
two together. Nothing here looks at a value before the end: every branch is a mask and every loop has a fixed length, so
that CUDA can record the whole as one graph (graph.py). Templates and limits are read from the very objects that the
CPU's path uses.

resizing      smaller and larger pictures
pictures      blurring, gradients, reading between pixels: OpenCV's conventions, its rounding included
statistics    medians and ranks under a mask, small linear systems
regions       morphology, holes, connected regions
light         the background and what differs from it
locating      where the part is
aiming        sub-pixel pose against a template
posing        directions by polar correlation, refinement, whether the pose can be trusted
placing       which of these a bundle needs, and the canonical picture
seeing        exposure, clipping, focus
blocks        the backbone, with fewer passes over its maps
pipeline      all of it, and what comes down
graph         what only CUDA has
"""
