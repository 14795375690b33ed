"""Zones that the user draws: what is refused, which cells a label takes, and what a target of its own changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calib import calibration, zoning
from calib.calibration import Calibration
from calib.fitting import Fitted
from calib.schedule import single_threaded
from calib.zoning import Drawn
from line_worker.errors import ConfigError, DatasetError, LineWorkerError
from line_worker.images import save_png
from line_worker.vision import score

ROWS, COLS = 10, 20
MASK = torch.ones(ROWS, COLS, dtype=torch.bool)
LEFT = torch.zeros(ROWS, COLS, dtype=torch.bool)
LEFT[:, :6] = True


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


def labels(**boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return a label image eight times as fine as the cells; boxes: l1=(row, rows end, col, cols end) in pixels."""
    image = np.zeros((8 * ROWS, 8 * COLS), np.uint8)
    for name, (top, bottom, left, right) in boxes.items():
        image[top:bottom, left:right] = int(name[1:])
    return image


# rules


def test_rules_say_what_a_label_means():
    assert zoning.parse(["1=ignore", "2=0.001", "255=0.4"]) == {1: None, 2: 0.001, 255: 0.4}
    assert zoning.parse([]) == {}


def test_every_wrong_rule_is_named_at_once():
    wrong = ["one=ignore", "2=lenient", "3", "4=0", "5=0.7", "=ignore", "6=nan"]
    with pytest.raises(ConfigError) as caught:
        zoning.parse(["1=ignore", *wrong])
    assert len(caught.value.problems) == len(wrong)
    for rule, problem in zip(wrong, caught.value.problems, strict=True):
        assert problem.startswith(f"zone {rule!r}: give LABEL=ignore or LABEL=SHARE")


# the label image


def written(folder: Path, image: np.ndarray) -> Path:
    save_png(folder / "labels.png", image)
    return folder / "labels.png"


def test_a_label_image_is_put_on_the_cells(tmp_path):
    path = written(tmp_path, labels(l1=(0, 40, 0, 48), l7=(0, 80, 80, 160)))
    drawn = zoning.read(path, ["1=ignore", "7=0.01"], MASK)
    assert torch.equal(drawn.ignored, LEFT & (torch.arange(ROWS) < 5)[:, None])
    ((cells, target),) = drawn.targets
    assert target == 0.01
    assert torch.equal(cells, (torch.arange(COLS) >= 10).expand(ROWS, -1))


@pytest.mark.parametrize("size", [(ROWS, COLS), (33, 91), (400, 400)])
def test_it_is_stretched_whatever_its_size(size):
    image = np.zeros(size, np.uint8)
    image[:, : round(size[1] * 0.4)] = 3
    ignored = zoning.on_grid(image, {3: None}, MASK).ignored
    assert ignored[:, :7].all()
    assert not ignored[:, 9:].any()


def test_a_cell_belongs_to_the_label_that_covers_more_than_half_of_it():
    for covered, expected in ((3, False), (5, True)):
        ignored = zoning.on_grid(labels(l1=(8, 16, 8, 8 + covered)), {1: None}, MASK).ignored
        assert bool(ignored[1, 1]) is expected
        assert int(ignored.sum()) == int(expected)


def test_targets_do_not_reach_beyond_the_part_or_into_what_is_ignored():
    part = MASK.clone()
    part[:, :3] = False
    image = labels(l1=(0, 80, 0, 80), l2=(0, 80, 80, 160))
    drawn = zoning.on_grid(image, {1: 0.1, 2: None}, part)
    assert torch.equal(drawn.targets[0][0], (torch.arange(COLS) < 10).expand(ROWS, -1) & part)
    assert not (drawn.targets[0][0] & drawn.ignored).any()


def test_a_target_for_nothing_of_the_part_is_dropped():
    part = MASK & ~LEFT
    assert zoning.on_grid(labels(l1=(0, 80, 0, 48)), {1: 0.1}, part).targets == ()


def test_an_empty_label_is_refused(tmp_path):
    path = written(tmp_path, labels(l1=(0, 40, 0, 48)))
    with pytest.raises(ConfigError, match=r"labels\.png: holds no pixel of label 4"):
        zoning.read(path, ["1=ignore", "4=0.1"], MASK)


def test_a_colour_image_is_refused(tmp_path):
    image = np.zeros((80, 160, 3), np.uint8)
    image[:40, :, 1] = 200
    with pytest.raises(ConfigError, match=r"labels\.png: must be a gray image"):
        zoning.read(written(tmp_path, image), ["1=ignore"], MASK)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "labels.png").write_bytes(b"not a picture")
    with pytest.raises(LineWorkerError, match=r"labels\.png: is not PNG"):
        zoning.read(tmp_path / "labels.png", ["1=ignore"], MASK)


def test_ignoring_the_whole_part_is_refused():
    with pytest.raises(ConfigError, match="leave nothing of the part to judge"):
        zoning.on_grid(labels(l1=(0, 80, 48, 160)), {1: None}, MASK & ~LEFT)


# what zones change


class Final:
    mask = MASK


COUNT = 60


def errors(seed: int, count: int = COUNT) -> torch.Tensor:
    return (1 + 0.2 * torch.randn(count, 1, ROWS, COLS, generator=torch.Generator().manual_seed(seed))).abs()


def calibrated(drawn: Drawn | None, rule: str = "zone", false_reject: float = 0.05) -> Calibration:
    index = torch.arange(COUNT)
    fitted = Fitted(Final(), Final(), index, errors(1), (False,), 1, False, ())
    return calibration.calibrate(fitted, [], rule, false_reject, drawn)


def own_target(target: float) -> Drawn:
    return Drawn(torch.zeros_like(MASK), ((LEFT, target),))


def rejects(made: Calibration, cells: torch.Tensor, seed: int = 2) -> float:
    """Return the share of new good parts that exceed the limit within `cells`."""
    decisions = score.decision_map(errors(seed, 400), made.zones, made.rule)
    return float((decisions[:, cells].amax(1) > made.limit.threshold).float().mean())


def test_an_ignored_zone_has_no_say():
    made = calibrated(Drawn(LEFT, ()))
    broken = errors(3, 1)
    broken[0, 0, 4, 2] = 50.0
    seen, unseen = (
        score.scores(score.decision_map(broken, zones, made.rule)) > made.limit.threshold
        for zones in (calibrated(None).zones, made.zones)
    )
    assert bool(seen)
    assert not bool(unseen)
    broken[0, 0, 4, 12] = 50.0
    assert bool(score.scores(score.decision_map(broken, made.zones, made.rule)) > made.limit.threshold)


def test_a_target_of_its_own_changes_rejects_in_that_zone_alone():
    lenient, strict = calibrated(own_target(0.2)), calibrated(own_target(0.017))
    assert 0.1 < rejects(lenient, LEFT) < 0.35
    assert rejects(strict, LEFT) < 0.05
    assert lenient.limit.threshold == strict.limit.threshold
    assert rejects(lenient, ~LEFT) == rejects(strict, ~LEFT) < 0.12


def test_the_classic_limit_stays_the_articles_outside_the_zone():
    plain, made = calibrated(None, "classic"), calibrated(own_target(0.1), "classic")
    assert made.limit.threshold == plain.limit.threshold == score.CLASSIC_LIMIT
    assert rejects(made, LEFT) > rejects(plain, LEFT) + 0.03
    assert rejects(made, ~LEFT) == rejects(plain, ~LEFT)


def test_a_target_of_its_own_is_met_by_the_good_images_too():
    for target in (0.05, 0.1, 0.2, 0.3):
        made = calibrated(own_target(target))
        above = (made.decisions[:, LEFT].amax(1) > made.limit.threshold).sum()
        assert target - 2 / COUNT < above / COUNT <= target
        assert (made.decisions[:, ~LEFT].amax(1) > made.limit.threshold).float().mean() <= 0.05
        assert made.limit.above == (made.decisions.flatten(1).amax(1) > made.limit.threshold).sum()


def test_targets_for_the_whole_part_leave_no_zone_behind():
    made = calibrated(Drawn(torch.zeros_like(MASK), ((LEFT, 0.1), (~LEFT, 0.1))))
    rates = [(made.decisions[:, cells].amax(1) > made.limit.threshold).float().mean() for cells in (LEFT, ~LEFT)]
    assert rates[0] == rates[1] == pytest.approx(0.083, abs=0.02)


def test_the_weight_is_part_of_the_zones_and_of_the_limit_that_is_shown():
    made = calibrated(own_target(0.2))
    shown = made.zones.limit(made.limit.threshold, made.rule)
    at_limit = score.decision_map(shown, made.zones, made.rule)
    assert torch.allclose(at_limit, torch.full_like(at_limit, made.limit.threshold), rtol=1e-4)


def test_a_zone_whose_limit_is_not_above_zero_is_refused():
    tiny = torch.zeros_like(MASK)
    tiny[3, 3] = True
    with pytest.raises(DatasetError, match="zone is too small or the target too large"):
        calibrated(Drawn(torch.zeros_like(MASK), ((tiny, 0.49),)))


def test_a_bundle_keeps_the_zones():
    drawn = Drawn(LEFT, ((~LEFT, 0.001),))
    again = Drawn.of(drawn.plane(), [0.001])
    assert torch.equal(again.ignored, LEFT)
    assert [(cells.tolist(), target) for cells, target in again.targets] == [((~LEFT).tolist(), 0.001)]
