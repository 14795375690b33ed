"""A bundle is read whole or not at all, written whole or not at all, and judged by its own golden images."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from line_worker import bundle as module
from line_worker.bundle import Bundle, Golden, verify_golden, write_bundle
from line_worker.errors import BundleError
from line_worker.images import encode_png
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspected

PICTURE = np.arange(64, dtype=np.uint8).reshape(8, 8)
SECTIONS = {
    "settings": {"locate": "background"},
    "input": {"shape": [8, 8], "dtype": "uint8"},
    "rectify": {},
    "reconstruct": {},
    "standard": {},
    "threshold": 2.5,
    "calibration": {},
}
GOLDEN = [
    Golden("0_a.png", encode_png(PICTURE), Reason.NONE, 1.25),
    Golden("1_b.png", encode_png(PICTURE), Reason.POSE, None),
]


def write(path: Path, threshold: float = 2.5) -> Bundle:
    arrays = {"zones.mu": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return write_bundle(path, {**SECTIONS, "threshold": threshold}, arrays, GOLDEN, "<html></html>")


class Says:
    """An inspection that answers from a list."""

    def __init__(self, *answers: tuple[Reason, float | None]) -> None:
        self.answers = list(answers)

    def inspect(self, images):
        assert np.array_equal(images[0], PICTURE)
        reason, score = self.answers.pop(0)
        return [Inspected(reason, score, 2.5)]


def test_round_trip(tmp_path):
    written = write(tmp_path / "b")
    again = Bundle.load(tmp_path / "b")
    assert again.sha == written.sha
    assert len(again.sha) == 64
    assert (again.threshold, again.input_shape, again.settings["locate"]) == (2.5, (8, 8), "background")
    assert np.array_equal(again.part("zones")["mu"], [[0, 1, 2], [3, 4, 5]])
    assert again.part("none") == {}


def test_nothing_else_is_left_beside_it(tmp_path):
    write(tmp_path / "b")
    write(tmp_path / "b", threshold=3.0)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert Bundle.load(tmp_path / "b").threshold == 3.0


@pytest.mark.parametrize("name", ["weights.safetensors", "golden/0_a.png", "report.html"])
def test_one_flipped_bit_is_found_and_named(tmp_path, name):
    write(tmp_path / "b")
    file = tmp_path / "b" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} does not have the sha256.*copy it again"):
        Bundle.load(tmp_path / "b")


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "golden/1_b.png"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    with pytest.raises(BundleError, match=f"{name} cannot be read"):
        Bundle.load(tmp_path / "b")


def edited(path: Path, **changes: object) -> Path:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return path


@pytest.mark.parametrize("other", [1, 99])
def test_another_format_is_refused_with_both_versions(tmp_path, other):
    write(tmp_path / "b")
    edited(tmp_path / "b", format=other, line_worker="7.0")
    with pytest.raises(BundleError, match=rf"format {other}, of line-worker 7\.0.*reads format 2.*train it again"):
        Bundle.load(tmp_path / "b")


def test_the_sha_covers_the_manifest(tmp_path):
    before = write(tmp_path / "b").sha
    edited(tmp_path / "b", threshold=99.0)
    assert Bundle.load(tmp_path / "b").sha != before


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "golden/../../outside"])
def test_names_do_not_lead_outside(tmp_path, name):
    write(tmp_path / "b")
    (tmp_path / "outside").write_bytes(b"")
    edited(tmp_path / "b", files={name: "0" * 64})
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.load(tmp_path / "b")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"])
def test_a_manifest_that_is_none_is_an_error_not_a_traceback(tmp_path, raw):
    write(tmp_path / "b")
    (tmp_path / "b" / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError):
        Bundle.load(tmp_path / "b")


@settings(max_examples=60, deadline=None)
@given(
    key=st.sampled_from([*module.SECTIONS, "format"]),
    value=st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2)),
)
def test_any_wrong_section_is_a_bundle_error(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("fuzz") / "b"
    write(path)
    edited(path, **{key: value})
    try:
        loaded = Bundle.load(path)
    except BundleError:
        return
    assert isinstance(loaded.manifest[key], module.SECTIONS.get(key, int))


def test_what_is_not_a_bundle_is_never_replaced(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.doc").write_text("years of work")
    with pytest.raises(BundleError, match="is not a bundle"):
        write(tmp_path / "b")
    (tmp_path / "c").write_text("a file")
    with pytest.raises(BundleError, match="is not a bundle"):
        write(tmp_path / "c")
    assert (tmp_path / "b" / "thesis.doc").read_text() == "years of work"


def test_an_interrupted_writer_leaves_the_old_bundle(tmp_path, monkeypatch):
    old = write(tmp_path / "b").sha

    def interrupted(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b", threshold=9.0)
    assert Bundle.load(tmp_path / "b").sha == old
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_full_disk_leaves_the_old_bundle(tmp_path, monkeypatch):
    old = write(tmp_path / "b").sha

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(BundleError, match="No space left"):
        write(tmp_path / "b", threshold=9.0)
    assert Bundle.load(tmp_path / "b").sha == old


def test_golden_images_that_come_out_the_same_pass(tmp_path):
    verify_golden(write(tmp_path / "b"), Says((Reason.NONE, 1.25 + 5e-4), (Reason.POSE, None)))


@pytest.mark.parametrize(
    "answer",
    [(Reason.NONE, 1.2525), (Reason.ANOMALY, 1.25), (Reason.NONE, None), (Reason.NONE, float("nan"))],
)
def test_a_golden_image_that_comes_out_differently_is_named(tmp_path, answer):
    bundle = write(tmp_path / "b")
    with pytest.raises(BundleError, match=r"golden/0_a\.png gives .* expected NONE with score 1\.25"):
        verify_golden(bundle, Says(answer))


def test_a_score_where_there_was_none_is_named(tmp_path):
    bundle = write(tmp_path / "b")
    with pytest.raises(BundleError, match=r"golden/1_b\.png gives POSE with score 1, expected POSE with no score"):
        verify_golden(bundle, Says((Reason.NONE, 1.25), (Reason.POSE, 1.0)))


def test_reading_a_bundle_needs_no_torch(tmp_path):
    write(tmp_path / "b")
    code = "import sys; from line_worker.bundle import Bundle; Bundle.load(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "b"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_trained_bundle_moves_to_another_place(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "copy")
    assert Bundle.load(tmp_path / "copy").sha == Bundle.load(tiny_bundle).sha
