"""Random splits: what is trained on is never judged as unseen, methods share splits, and no figure is lost."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bench import published as references
from bench import show_accuracy, splits
from bench.show_accuracy import Asked
from bench.splits import Plan, draw, link, summary
from calib.options import CHOICES, TrainOptions
from line_worker.errors import ConfigError, DatasetError
from line_worker.images import save_png
from line_worker.source.drawing import draw_part

SIZE = (120, 160)
GOOD = 26


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    root = tmp_path_factory.mktemp("splits") / "bracket"
    rng = np.random.default_rng(51)
    for folder, defect, count in (("train/good", "", GOOD), ("test/good", "", 3), ("test/missing", "missing", 3)):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            save_png(root / folder / f"{number:03d}.png", draw_part(rng, defect=defect, size=SIZE).image)
    return root


def plan(category, methods=("classic",), count=1, images=None, **template) -> Plan:
    return Plan(category, methods, count, images, TrainOptions(category, category, **template), "cpu")


# ---- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "train", "apart"), [(None, 80, 20), (20, 20, 20), (80, 80, 20), (95, 95, 5)])
def test_a_split_holds_out_a_fifth_and_never_trains_on_it(tmp_path, images, train, apart):
    paths = [tmp_path / f"{n}.png" for n in range(100)]
    split = draw(paths, 3, images)
    assert (len(split.train), len(split.held_out)) == (train, apart)
    assert len({*split.train, *split.held_out}) == train + apart
    assert {*split.train, *split.held_out} <= set(paths)


def test_the_seed_decides_the_split(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(50)]
    assert draw(paths, 1) == draw(paths, 1)
    assert set(draw(paths, 1).train) != set(draw(paths, 2).train)
    assert draw(paths, 1, 20).train == draw(paths, 1).train[:20]


@pytest.mark.parametrize(("count", "images"), [(50, 50), (50, 60), (1, None), (0, None)])
def test_a_split_that_holds_nothing_out_is_refused(tmp_path, count, images):
    with pytest.raises(DatasetError, match="takes more"):
        draw([tmp_path / f"{n}.png" for n in range(count)], 0, images)


def test_links_copy_nothing(tmp_path, monkeypatch):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.png").write_bytes(b"pixels")
    monkeypatch.chdir(tmp_path)
    folder = link([(tmp_path / "from").relative_to(tmp_path) / "a.png"], tmp_path / "to" / "good")
    assert (folder / "a.png").is_symlink()
    assert (folder / "a.png").read_bytes() == b"pixels"


# ---- figures over splits ---------------------------------------------------------------------------------------------


def test_the_summary_is_mean_and_sample_deviation():
    def one(auroc, pro, escape):
        defects = {"pit": {"images": 3, "escape": escape, "auroc": auroc}}
        return {"split": 9, "image_auroc": auroc, "au_pro": pro, "bundle": "sha", "per_defect": defects}

    found = summary([one(0.9, None, 0.0), one(1.0, None, 0.5)])
    assert found["image_auroc"] == pytest.approx({"mean": 0.95, "std": math.sqrt(0.005)})
    assert found["au_pro"] == {"mean": None, "std": None}
    assert found["per_defect"]["pit"]["escape"] == pytest.approx({"mean": 0.25, "std": math.sqrt(0.125)})
    assert found.keys() == {"image_auroc", "au_pro", "per_defect"}
    assert summary([one(0.9, 0.8, 0.0)])["au_pro"] == {"mean": 0.8, "std": None}


@pytest.mark.long
def test_a_real_split_is_trained_and_judged_on_what_it_has_not_seen(category):
    stages = {}
    todo = plan(category, steps=4, pixels=1 << 14, repeats=0, false_reject=0.05, seed=4)
    ((method, figures),) = splits.run(todo, lambda stage, share: stages.update({stage: share}))
    json.dumps(figures, allow_nan=False)
    assert method == "classic"
    assert (figures["split"], figures["trained_on"], figures["held_out"], figures["images"]) == (4, 21, 5, 6)
    assert figures["image_auroc"] == figures["auroc_heldout_good"] == 1.0  # a missing piece is no near miss
    assert 0 <= figures["false_reject_heldout"] <= 1
    assert figures["train_s"] > 0
    assert 0.1 < figures["bundle_mb"] < 64
    assert stages["all"] == stages["inspect"] == 1.0


class Trainer:
    """Notes what it is given, and answers with the number of the training."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, list[str]]] = []

    def __call__(self, options, progress):
        names = sorted(path.name for path in options.good.iterdir())
        assert all((options.good / name).resolve().is_file() for name in names)
        self.seen.append((options.reconstruct, options.seed, names))
        options.out.mkdir()
        (options.out / "weights").write_bytes(bytes(2_000_000))
        self.bundle = len(self.seen)
        return self


@pytest.fixture
def trainer(monkeypatch):
    trainer, held = Trainer(), []

    def accuracy(bundle, category, device, progress, held_out):
        held.append(sorted(path.name for path in held_out))
        figures = {name: bundle / 10 for _, name, _ in show_accuracy.ROWS[:9]}
        return {**figures, "images": 6, "undecided": 0, "per_defect": {"missing": {"escape": bundle / 10}}}

    monkeypatch.setattr(splits, "train", trainer)
    monkeypatch.setattr(splits, "accuracy", accuracy)
    trainer.held = held
    return trainer


def test_methods_share_splits_and_splits_differ(category, trainer):
    runs = list(splits.run(plan(category, ("classic", "classic"), 2, 20, seed=7)))
    assert [method for method, _ in runs] == ["classic"] * 4
    assert [figures["split"] for _, figures in runs] == [7, 7, 8, 8]
    (first, second, third, fourth), held = trainer.seen, trainer.held
    assert first == second
    assert third == fourth
    assert first[2] != third[2]
    assert [len(names) for _, _, names in trainer.seen] == [20] * 4
    assert held[0] == held[1] != held[2]
    assert not any(set(names) & set(apart) for (_, _, names), apart in zip(trainer.seen, held, strict=True))
    assert runs[0][1]["bundle_mb"] == 2.0


def test_wrong_wishes_are_all_named_before_anything_is_trained(category, trainer):
    with pytest.raises(ConfigError) as caught:
        list(splits.run(plan(category, ("classic", "magic"), 0, 0)))
    for words in ("'magic' is not one of", *CHOICES["reconstruct"], "splits 0", "images 0"):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="no method"):
        list(splits.run(plan(category, ())))
    with pytest.raises(DatasetError, match="test/DEFECT"):
        list(splits.run(plan(category / "train")))
    assert trainer.seen == []


# ---- what is printed -------------------------------------------------------------------------------------------------


def printed(capsys, *arguments: object) -> tuple[int, str, str]:
    from line_worker.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["bench", "accuracy", *(str(one) for one in arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_the_table_shows_mean_and_deviation_side_by_side(category, trainer, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, said, told = printed(capsys, category, "--splits", 2, "--methods", "classic, classic", "--minutes", 0.1)
    assert code == 0
    assert "over 4 splits" in said  # the same name twice is one column
    assert "0.2500 ± 0.1291" in said
    assert "AUROC, held-out good vs bad" in said
    assert "published" not in said
    assert "pip install anomalib" in said
    assert told.count("image AUROC") == 4


def test_json_carries_every_split(category, trainer, capsys):
    code, said, _ = printed(capsys, category, "--splits", 3, "--methods", "classic", "--json")
    found = json.loads(said)
    assert code == 0
    assert found.keys() == {"category", "methods"}
    classic = found["methods"]["classic"]
    assert [one["image_auroc"] for one in classic["splits"]] == [0.1, 0.2, 0.3]
    assert [one["split"] for one in classic["splits"]] == [0, 1, 2]
    assert classic["mean_std"]["image_auroc"] == pytest.approx({"mean": 0.2, "std": 0.1})


def test_the_trainers_own_defaults_are_used(category, trainer, capsys):
    assert printed(capsys, category, "--images", 20)[0] == 0
    assert [method for method, _, _ in trainer.seen] == [TrainOptions(category, category).reconstruct]


def test_published_figures_are_shown_for_screw_only_and_marked(category, trainer, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "screw").symlink_to(category)
    assert references.published(tmp_path / "screw") == ()  # a link called screw is still the bracket
    screw = tmp_path / "real" / "screw"
    screw.mkdir(parents=True)
    for name in ("train", "test"):
        (screw / name).symlink_to(category / name)
    code, said, _ = printed(capsys, screw, "--splits", 1, "--methods", "classic")
    assert code == 0
    assert "published for MVTec AD's screw, not measured here" in said
    for words in ("PaDiM", "0.759 to 0.845", "0.943 to 0.960", "0.960 to 0.975", "0.985", "0.986", "0.231", "arXiv"):
        assert words in said
    said = printed(capsys, screw, "--splits", 1, "--methods", "classic", "--json")[1]
    assert {one["method"]: one["image_auroc"] for one in json.loads(said)["published"]}["GANomaly"] == [0.231, 0.231]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--bundle", "b", "--splits", 2], ["--compare", "--images", 20], ["--splits", 1, "--reference", "x"]],
)
def test_unclear_wishes_are_wrong_usage(category, capsys, arguments):
    code, _, told = printed(capsys, category, *arguments)
    assert code == 3
    assert "bench accuracy: 1 problem(s)" in told


# ---- GANomaly --------------------------------------------------------------------------------------------------------


class Anomalib:
    """What is used of anomalib's packages data, engine and models; it notes how."""

    def __init__(self) -> None:
        self.folder: dict[str, object] = {}
        self.calls: list[str] = []

    def Folder(self, **options):  # noqa: N802
        self.folder = options
        return "folders"

    def Engine(self, default_root_dir):  # noqa: N802
        return self

    def Ganomaly(self):  # noqa: N802
        return "model"

    def fit(self, model, datamodule):
        self.calls.append(f"fit {model} {datamodule}")

    def test(self, model, datamodule):
        self.calls.append(f"test {model} {datamodule}")
        return [{"image_AUROC": 0.25, "image_F1Score": 0.5}]


def test_ganomaly_is_measured_when_it_is_asked_for_and_there(category, trainer, capsys, monkeypatch):
    library = Anomalib()
    monkeypatch.setattr(references, "import_module", lambda name: library)
    monkeypatch.setattr(show_accuracy, "anomalib_is_there", lambda: True)
    said = printed(capsys, category, "--images", 20, "--methods", "classic", "--reference", "ganomaly", "--json")[1]
    assert json.loads(said)["ganomaly"] == {"image_auroc": 0.25}
    assert library.calls == ["fit model folders", "test model folders"]
    assert library.folder["abnormal_dir"] == ["test/missing"]
    assert library.folder["root"] == category
    assert "--reference ganomaly" in printed(capsys, category, "--images", 20, "--methods", "classic")[1]


def test_ganomaly_is_not_measured_where_anomalib_is_missing(category, monkeypatch):
    monkeypatch.setattr(show_accuracy, "anomalib_is_there", lambda: False)
    asked = Asked(category, splits=1, reference="ganomaly")
    assert show_accuracy._reference(asked) is None
    assert "pip install anomalib" in show_accuracy._ganomaly_note(asked, None)
