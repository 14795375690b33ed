"""`line-worker bundle`: shown is what is there, damage is named, different bundles do not pass for the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from line_worker import bundles, cli_bundle
from line_worker.bundle import FORMAT, Bundle, Golden, write_bundle
from line_worker.bundles import describe, difference, judge_golden, verify
from line_worker.cli import main
from line_worker.errors import BundleError
from line_worker.images import encode_png, save_png
from line_worker.selftest import self_tested
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspected

SIZE = (240, 320)
PICTURE = np.arange(64, dtype=np.uint8).reshape(8, 8)
LIMIT = {"threshold": 2.5, "expected": 0.02, "low": 0.001, "high": 0.07, "above": 0, "images": 2}
SECTIONS = {
    "settings": {"locate": "background", "seed": 0},
    "input": {"shape": [8, 8], "dtype": "uint8"},
    "rectify": {"size": [4, 6], "placer": None},
    "reconstruct": {"method": "classic"},
    "standard": {"rule": {"name": "zone"}},
    "threshold": 2.5,
    "calibration": {"limit": LIMIT, "scores": {"a.png": 1.0, "b.png": 2.0}, "undecided": {"c.png": "POSE"}, "folds": 5},
}
ARRAYS = {"zones.mu": np.arange(6, dtype=np.float32).reshape(2, 3), "mask": np.ones(2, np.uint8)}
GOLDEN = [
    Golden("0_a.png", encode_png(PICTURE), Reason.NONE, 1.25),
    Golden("1_b.png", encode_png(PICTURE), Reason.POSE, None),
]


def write(path: Path, arrays=ARRAYS, golden=GOLDEN, **changes) -> Bundle:
    return write_bundle(path, {**SECTIONS, **changes}, arrays, golden, "<html></html>")


def run(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["bundle", *(str(one) for one in arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out + captured.err


class Says:
    """An inspection that answers from a list."""

    def __init__(self, *answers: tuple[Reason, float | None]) -> None:
        self.answers = list(answers)

    def inspect(self, images):
        assert np.array_equal(images[0], PICTURE)
        return [Inspected(*self.answers.pop(0), 2.5)]


# ---- show ------------------------------------------------------------------------------------------------------------


def test_show_says_what_the_manifest_says(tmp_path, capsys):
    bundle = write(tmp_path / "b")
    facts = describe(bundle)
    assert (facts["sha"], facts["format"], facts["threshold"]) == (bundle.sha, FORMAT, 2.5)
    assert (facts["rectified_size"], facts["method"], facts["rule"]) == ([4, 6], "classic", {"name": "zone"})
    assert facts["false_rejects_per_1000"] == pytest.approx({"expected": 20, "low": 1, "high": 70})
    assert (facts["images"], facts["undecided"], facts["folds"]) == (2, {"c.png": "POSE"}, 5)
    assert facts["bytes"] == sum(p.stat().st_size for p in bundle.path.rglob("*") if p.is_file())
    assert facts["files"]["golden/0_a.png"] == len(GOLDEN[0].png)

    code, said = run(capsys, "show", bundle.path, "--json")
    assert (code, json.loads(said)) == (0, facts)
    code, said = run(capsys, "show", bundle.path)
    assert code == 0
    for words in (bundle.sha, "about 20.0 (95 %: 1.0 to 70.0)", "4 x 6", "c.png POSE", "seed 0", "report.html"):
        assert words in said


def test_show_a_bundle_that_does_not_say_what_it_promises(tmp_path, capsys):
    bundle = write(tmp_path / "b", calibration={}, rectify={})
    assert describe(bundle)["false_rejects_per_1000"] is None
    assert "false rejects  unknown" in run(capsys, "show", bundle.path)[1]


def test_show_a_trained_bundle(tiny_bundle):
    facts = describe(Bundle.load(tiny_bundle))
    json.dumps(facts, allow_nan=False)
    assert (facts["images"], facts["input"]["shape"]) == (24, list(SIZE))
    assert (facts["method"], facts["rule"]["name"], facts["format"]) == ("classic", "zone", FORMAT)
    assert 0 < facts["false_rejects_per_1000"]["low"] < facts["false_rejects_per_1000"]["expected"]


def test_show_what_is_no_bundle_is_wrong_input(tmp_path, capsys):
    assert run(capsys, "show", tmp_path)[0] == 3


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_a_whole_bundle(tmp_path, capsys):
    bundle = write(tmp_path / "b")
    found = verify(bundle.path)
    assert (found.whole, found.sha, found.files) == (True, bundle.sha, 5)
    code, said = run(capsys, "verify", bundle.path)
    assert code == 0
    assert "whole, 5 files" in said


def test_verify_names_every_damaged_file(tmp_path, capsys):
    path = write(tmp_path / "b").path
    (path / "report.html").write_text("another report")
    (path / "golden" / "1_b.png").unlink()
    found = verify(path)
    assert [(one.file, one.what) for one in found.damage] == [
        ("golden/1_b.png", "cannot be read (No such file or directory)"),
        ("report.html", "does not have the sha256 that the manifest names"),
    ]
    code, said = run(capsys, "verify", path, "--json")
    parsed = json.loads(said)
    assert code == 1
    assert not parsed["whole"]
    assert [one["file"] for one in parsed["damage"]] == ["golden/1_b.png", "report.html"]
    code, said = run(capsys, "verify", path)
    assert code == 1
    assert "damaged  report.html" in said


def test_verify_warns_of_what_the_manifest_does_not_name(tmp_path, capsys):
    path = write(tmp_path / "b").path
    (path / "golden" / "notes.txt").write_text("look at this")
    (path / "link").symlink_to(tmp_path)
    found = verify(path)
    assert (found.damage, found.extra, found.whole) == ((), ("golden/notes.txt", "link"), False)
    code, said = run(capsys, "verify", path)
    assert code == 1
    assert "warning  golden/notes.txt" in said


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_verify_finds_arrays_that_are_not_finite(tmp_path, value):
    mu = ARRAYS["zones.mu"].copy()
    mu[1, 1:] = value
    write(tmp_path / "b", {"zones.mu": mu})
    assert verify(tmp_path / "b").damage == (
        ("weights.safetensors", "array zones.mu holds 2 value(s) that are not finite"),
    )


def edited(path: Path, **changes: object) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_verify_another_format(tmp_path):
    path = write(tmp_path / "b").path
    edited(path, format=99)
    (only,) = verify(path).damage
    assert only.file == "manifest.json"
    assert "format 99" in only.what


def test_verify_a_manifest_that_lacks_a_section_or_leads_outside(tmp_path):
    path = write(tmp_path / "b").path
    edited(path, standard=None)
    assert [(one.file, "standard" in one.what) for one in verify(path).damage] == [("manifest.json", True)]
    edited(path, files={"../outside": "0" * 64})
    assert verify(path).damage == (("manifest.json", "names a file outside the bundle (../outside)"),)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"files": {"a": 1}}'])
def test_verify_a_manifest_that_is_none(tmp_path, raw):
    path = write(tmp_path / "b").path
    (path / "manifest.json").write_bytes(raw)
    found = verify(path)
    assert [one.file for one in found.damage] == ["manifest.json"]
    assert "is not a manifest" in found.damage[0].what


def test_verify_weights_that_are_no_safetensors_though_the_sum_is_right(tmp_path):
    path = write(tmp_path / "b").path
    (path / "weights.safetensors").write_bytes(b"nothing")
    files = json.loads((path / "manifest.json").read_text())["files"]
    edited(path, files={**files, "weights.safetensors": bundles.hashlib.sha256(b"nothing").hexdigest()})
    (only,) = verify(path).damage
    assert only.file == "weights.safetensors"
    assert "is not a safetensors file" in only.what


def test_verify_what_is_not_there_is_wrong_input(tmp_path, capsys):
    with pytest.raises(BundleError, match="is not a folder"):
        verify(tmp_path / "gone")
    assert run(capsys, "verify", tmp_path / "gone")[0] == 3
    (tmp_path / "empty").mkdir()
    assert [one.file for one in verify(tmp_path / "empty").damage] == ["manifest.json"]


# ---- golden ----------------------------------------------------------------------------------------------------------


def test_golden_says_what_was_expected_and_what_came(tmp_path):
    bundle = write(tmp_path / "b")
    first, second = judge_golden(bundle, Says((Reason.ANOMALY, 3.25), (Reason.POSE, None)))
    assert (first.ok, first.difference) == (False, 2.0)
    assert (second.ok, second.difference) == (True, None)
    assert first.as_json() == {
        "file": "golden/0_a.png",
        "expected_reason": "NONE",
        "expected_score": 1.25,
        "reason": "ANOMALY",
        "score": 3.25,
        "ok": False,
        "difference": 2.0,
    }


@pytest.mark.parametrize("score", [None, float("nan")])
def test_golden_without_a_number_is_not_ok(tmp_path, score):
    bundle = write(tmp_path / "b", golden=GOLDEN[:1])
    (only,) = judge_golden(bundle, Says((Reason.NONE, score)))
    assert (only.ok, only.score, only.difference) == (False, None, None)


def test_golden_of_a_trained_bundle_on_this_machine(tiny_bundle, capsys):
    code, said = run(capsys, "golden", tiny_bundle, "--device", "cpu")
    lines = said.splitlines()
    assert code == 0
    assert len(lines) == len(Bundle.load(tiny_bundle).manifest["golden"]) > 2
    assert all(line.startswith("ok") and "expected" in line and "difference" in line for line in lines)


def test_golden_that_does_not_come_out_is_exit_1(tiny_bundle, tmp_path, capsys):
    shutil.copytree(tiny_bundle, tmp_path / "b")
    expected = json.loads((tmp_path / "b" / "manifest.json").read_text())["golden"]
    expected[1]["score"] += 1.0
    edited(tmp_path / "b", golden=expected)
    code, said = run(capsys, "golden", tmp_path / "b", "--device", "cpu", "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert code == 1
    assert [row["ok"] for row in rows] == [n != 1 for n in range(len(expected))]
    assert rows[1]["difference"] == pytest.approx(-1.0, abs=2e-3)


def test_a_bundle_without_golden_images_reproduces_nothing(tiny_bundle, tmp_path, capsys):
    shutil.copytree(tiny_bundle, tmp_path / "b")
    edited(tmp_path / "b", golden=[])
    code, said = run(capsys, "golden", tmp_path / "b", "--device", "cpu")
    assert code == 1
    assert "no golden image" in said


# ---- diff ------------------------------------------------------------------------------------------------------------

CALIBRATION = SECTIONS["calibration"]


def test_diff_of_the_same_content(tmp_path, capsys):
    a = write(tmp_path / "a")
    told = {**CALIBRATION, "notes": ["pose rigid."], "power": {"rows": []}, "bad": {"x.png": [3.0, "ANOMALY"]}}
    b = write(tmp_path / "b", settings={"locate": "background", "seed": 7}, golden=GOLDEN[:1], calibration=told)
    facts = difference(a, b)
    assert facts["same"]
    assert (facts["settings"], facts["judging"], facts["arrays"]) == ({"seed": (0, 7)}, {}, {})
    code, said = run(capsys, "diff", a.path, b.path)
    assert code == 0
    assert "setting seed: 0 -> 7" in said


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"threshold": 2.6}, "threshold"),
        ({"standard": {"rule": {"name": "classic"}}}, "standard.rule.name"),
        ({"rectify": {"size": [4, 6], "placer": {"kind": "posing"}}}, "rectify.placer.kind"),
        ({"calibration": {**CALIBRATION, "limit": {**LIMIT, "expected": 0.03}}}, "calibration.limit.expected"),
        ({"calibration": {**CALIBRATION, "focus": [1, 2]}}, "calibration.focus"),
        ({"drift": {"exposure": 0.5}}, "drift.exposure"),
    ],
)
def test_diff_finds_what_a_verdict_depends_on(tmp_path, capsys, changes, name):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", **changes)
    facts = difference(a, b)
    assert not facts["same"]
    assert name in facts["judging"]
    code, said = run(capsys, "diff", a.path, b.path)
    assert code == 1
    assert name in said


def test_diff_of_arrays(tmp_path):
    mu = ARRAYS["zones.mu"].copy()
    mu[0, 1] += 0.5
    mu[1, 2] -= 2.0
    a = write(tmp_path / "a", {**ARRAYS, "old": mu})
    b = write(tmp_path / "b", {"zones.mu": mu, "mask": np.ones((2, 1), np.uint8)})
    facts = difference(a, b)
    assert facts["arrays"] == {
        "mask": {"form": ("uint8 2", "uint8 2 x 1")},
        "old": {"form": ("float32 2 x 3", None)},
        "zones.mu": {"max_difference": 2.0},
    }
    assert not facts["same"]


def test_diff_of_arrays_that_are_not_finite(tmp_path):
    mu = ARRAYS["zones.mu"].copy()
    mu[0] = np.nan, np.inf, 7
    a, b = write(tmp_path / "a", {"mu": mu}), write(tmp_path / "b", {"mu": mu})
    assert difference(a, b)["arrays"] == {}
    mu[0, 1] = 0
    assert difference(a, write(tmp_path / "b", {"mu": mu}))["arrays"] == {"mu": {"max_difference": None}}


def test_diff_of_scores_that_both_name(tmp_path):
    a = write(tmp_path / "a")
    moved = {**CALIBRATION, "scores": {"b.png": 2.75, "a.png": 0.75, "z.png": 9.0}}
    b = write(tmp_path / "b", calibration=moved)
    facts = difference(a, b)
    assert facts["scores"] == {"images": 2, "mean": 0.25, "largest": 0.75, "of": "b.png", "turned": ["b.png"]}
    assert not facts["same"]
    elsewhere = write(tmp_path / "c", calibration={**CALIBRATION, "scores": {"other.png": 1.0}})
    assert difference(a, elsewhere)["scores"] == {"images": 0}


def test_diff_lists_the_images_that_get_another_verdict(tiny_bundle, tmp_path, capsys):
    rng = np.random.default_rng(41)
    for name, defect in {"good": "", "bad": "missing"}.items():
        save_png(tmp_path / f"{name}.png", draw_part(rng, defect=defect, size=SIZE).image)
    (tmp_path / "cut.png").write_bytes(b"no image")
    bundle = Bundle.load(tiny_bundle)
    inspected = self_tested(bundle, "cpu").inspect([draw_part(np.random.default_rng(41), size=SIZE).image])[0]
    assert inspected.reason is Reason.NONE
    shutil.copytree(tiny_bundle, tmp_path / "strict.bundle")
    edited(tmp_path / "strict.bundle", threshold=inspected.score / 2, golden=[])
    images = [tmp_path / f"{name}.png" for name in ("bad", "cut", "good")]
    code, said = run(capsys, "diff", tiny_bundle, tmp_path / "strict.bundle", *images, "--device", "cpu", "--json")
    facts = json.loads(said)
    judged = facts["images"]
    assert code == 1
    outcomes = [(one["a"]["outcome"], one["b"]["outcome"]) for one in judged["verdicts"]]
    assert outcomes == [("FAIL", "FAIL"), ("NO_DECISION", "NO_DECISION"), ("PASS", "FAIL")]
    assert [Path(one["path"]).name for one in judged["disagree"]] == ["good.png"]
    words = "\n".join(cli_bundle._differences(facts))
    assert "1 of 3 images get another verdict" in words
    assert f"PASS {inspected.score:.6g}" in words


def test_the_help_needs_nothing_heavy():
    code = (
        "import sys; from line_worker.cli import app; from line_worker import cli_bundle\n"
        "print(sorted({'torch', 'cv2', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.stdout.strip() == "[]"
