"""Scoring files: one outcome each, whatever the file is, and exit codes that scripts can trust."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from line_worker.bundle import Bundle
from line_worker.errors import ConfigError
from line_worker.images import read_image, save_png
from line_worker.scoring import Scored, exit_code, find, score_paths
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason, Verdict

SIZE = (240, 320)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(21)
    save_png(tmp_path / "a_good.png", draw_part(rng, size=SIZE).image)
    (tmp_path / "deeper").mkdir()
    save_png(tmp_path / "deeper" / "b_bad.png", draw_part(rng, defect="missing", size=SIZE).image)
    save_png(tmp_path / "c_empty.png", np.full(SIZE, 190, np.uint8))
    save_png(tmp_path / "c_night.png", np.zeros(SIZE, np.uint8))
    whole = (tmp_path / "a_good.png").read_bytes()
    (tmp_path / "d_cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_every_file_gets_one_outcome(tiny_bundle, folder):
    bundle = Bundle.load(tiny_bundle)
    scored = {one.path.name: one for one in score_paths(bundle, [folder])}
    assert {name: one.reason for name, one in scored.items()} == {
        "a_good.png": Reason.NONE,
        "b_bad.png": Reason.ANOMALY,
        "c_empty.png": Reason.NO_OBJECT,
        "c_night.png": Reason.EXPOSURE,
        "d_cut.png": Reason.DECODE,
    }
    assert scored["d_cut.png"].score is None
    assert scored["c_night.png"].p_value is None
    assert "d_cut.png" in scored["d_cut.png"].detail
    assert all(one.bundle == bundle.sha and one.threshold == bundle.threshold for one in scored.values())
    assert scored["a_good.png"].ms > 0


def test_json_is_what_is_documented(tiny_bundle, folder):
    bad = next(score_paths(Bundle.load(tiny_bundle), [folder / "deeper" / "b_bad.png"]))
    said = json.loads(json.dumps(bad.as_json(), allow_nan=False))
    assert {"path", "outcome", "score", "threshold", "p_value", "reasons", "boxes", "ms", "bundle"} <= said.keys()
    assert (said["outcome"], said["reasons"]) == ("FAIL", ["ANOMALY"])
    assert said["p_value"] == 1 / 25  # more than any of 24 good images
    assert {"x", "y", "w", "h", "zone", "error", "neighbours", "limit", "sigma"} == said["boxes"][0].keys()
    assert bad.as_line().startswith("FAIL")
    assert "b_bad.png" in bad.as_line()


def test_overlays_are_written_beside_nothing_else(tiny_bundle, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("overlays") / "new"
    list(score_paths(Bundle.load(tiny_bundle), [folder], overlay=out))
    pictures = {path.name: read_image(path) for path in out.iterdir()}
    assert sorted(name[5:] for name in pictures) == ["a_good.png", "b_bad.png", "c_empty.png", "c_night.png"]
    assert all(picture.ndim == 3 and picture.shape[1] == SIZE[1] for picture in pictures.values())


def test_a_webp_and_a_jpeg_are_read(tiny_bundle, tmp_path):
    image = draw_part(np.random.default_rng(3), size=SIZE).image
    for suffix in ("webp", "jpg", "bmp", "tiff"):
        assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), image)
    reasons = [one.reason for one in score_paths(Bundle.load(tiny_bundle), [tmp_path])]
    assert reasons == [Reason.NONE] * 4


def test_paths_that_lead_nowhere_are_all_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        find([tmp_path / "gone", tmp_path / "empty"])
    assert "gone does not exist" in str(caught.value)
    assert "empty holds no image" in str(caught.value)
    with pytest.raises(ConfigError, match="no image or folder"):
        find([])


@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        ([], 0),
        ([Reason.NONE, Reason.NONE], 0),
        ([Reason.NONE, Reason.ANOMALY], 1),
        ([Reason.NONE, Reason.ANOMALY, Reason.DECODE], 2),
    ],
)
def test_exit_codes(reasons, code, tmp_path):
    scored = [Scored(tmp_path, reason, None, 1.0, (), 0.0, "") for reason in reasons]
    assert exit_code(scored) == code
    assert all(one.verdict in Verdict for one in scored)
