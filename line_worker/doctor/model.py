"""What judges the parts: the bundle's files, its golden images on this machine's device, the device itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from line_worker.activation import bundle_input
from line_worker.config import Config
from line_worker.doctor import Finding, error, ok, warning
from line_worker.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from line_worker.worker.model import Model

SPEED_ROUNDS = 5
DRIVER = Path("/proc/driver/nvidia/version")


def check_bundle(config: Config) -> Iterator[Finding]:
    """Every file is what its maker wrote, the golden images come out as there, and a part does not take long."""
    if config.workers.stub:
        advice = 'name a bundle in workers.bundle before parts depend on it: "stub" only measures the line'
        yield warning("bundle", "there is none: every intact frame passes", advice)
        return
    from line_worker.bundles import verify

    path = config.workers.bundle
    try:
        found = verify(path)
    except BundleError as failure:
        yield error("bundle", str(failure), "nothing passes without a bundle; correct workers.bundle or train one")
        return
    if not found.whole:
        what = "; ".join([*(f"{one.file} {one.what}" for one in found.damage), *(f"{e} is extra" for e in found.extra)])
        yield error("bundle", f"{path}: is damaged: {what}"[:500], "copy it again from where it was made")
        return
    yield ok("bundle", f"{path}: {found.files} files are whole, {(found.sha or '')[:12]}")
    yield from _judging(config)


def _judging(config: Config) -> Iterator[Finding]:
    """Look at how the bundle judges on this machine's device: as where it was made, and fast enough."""
    from line_worker.worker.model import BundleModel

    try:
        model = BundleModel(config.workers)
    except (BundleError, ConfigError) as failure:
        advice = "no worker will start with it; train it with this version, or correct workers.device and runtime"
        yield error("golden images", str(failure), advice)
        return
    count = len(json.loads((config.workers.bundle / "manifest.json").read_bytes())["golden"])
    if not count:
        advice = "train again: without golden images nothing shows that this machine computes what the maker's did"
        yield warning("golden images", "the bundle has none", advice)
    else:
        text = f"{count} come out here as they did where the bundle was made, on {model.device}"
        yield ok("golden images", text)
    yield _speed(config, model)


def _speed(config: Config, model: Model) -> Finding:
    """Say whether a part is judged well within its deadline."""
    example, times = model.example(), []
    for _ in range(SPEED_ROUNDS):
        start = time.monotonic()
        model.inspect([example])
        times.append(time.monotonic() - start)
    took_ms, deadline_ms = sorted(times)[SPEED_ROUNDS // 2] * 1000, min(c.deadline_ms for c in config.cameras)
    text = f"a part takes {took_ms:.0f} ms here, the shortest deadline is {deadline_ms:g} ms"
    if took_ms > deadline_ms / 2:
        advice = "parts will be NO_DECISION when the machine is busy: raise deadline_ms, install line-worker[openvino]"
        return warning("speed", text, f"{advice}, or give the workers a GPU")
    return ok("speed", f"{text}; {config.workers.count} worker(s) on idle cores take that long each")


def check_recipes(config: Config) -> Iterator[Finding]:
    """Every bundle that the PLC can choose is whole and for this line's pictures."""
    from line_worker.bundles import verify

    for recipe in config.recipes:
        check, advice = f"recipe {recipe.number}", "the PLC will get REFUSED: correct its bundle"
        try:
            whole = verify(recipe.bundle).whole
        except BundleError as failure:
            yield error(check, str(failure), advice)
            continue
        if not whole:
            yield error(check, f"{recipe.bundle}: is damaged", advice)
        elif bundle_input(recipe.bundle) != bundle_input(config.workers.bundle):
            yield error(check, f"{recipe.bundle}: is for other pictures than {config.workers.bundle}", advice)
        else:
            yield ok(check, f"{recipe.bundle}: is whole, and for this line's pictures")


def check_shadows(config: Config) -> Iterator[Finding]:
    """Every file of the bundles that shadows try; whether this machine reproduces them they find out themselves."""
    from line_worker.bundles import verify

    for sink in config.sinks:
        if sink.kind != "shadow":
            continue
        check, advice = f"shadow {sink.name}", "copy it again, or correct its bundle: the line runs without the shadow"
        try:
            found = verify(sink.bundle)
        except BundleError as failure:
            yield warning(check, str(failure), advice)
            continue
        if found.damage:
            what = "; ".join(f"{one.file} {one.what}" for one in found.damage)
            yield warning(check, f"{sink.bundle}: is damaged: {what}"[:500], advice)
        else:
            yield ok(check, f"{sink.bundle}: {found.files} files are whole, {(found.sha or '')[:12]}")


def check_device(config: Config) -> Iterator[Finding]:
    """The device that workers compute on is there, and is not asked for more than it has."""
    import torch

    workers = config.workers
    cuda = torch.cuda.is_available()
    if workers.device.startswith("cuda") and not cuda:
        yield error("device", f"{workers.device} is asked for, and torch finds no GPU", _gpu_advice())
    elif workers.device == "auto" and not cuda and DRIVER.exists():
        yield warning("device", "a GPU's driver is there, but torch cannot use it; the CPU computes", _gpu_advice())
    elif cuda and workers.device != "cpu":
        yield _gpu(workers.device)
    else:
        yield _cpu(workers.count * (workers.threads or 1))


def _gpu_advice() -> str:
    return "install a torch build for CUDA and a driver that fits it, or set workers.device to cpu"


def _gpu(device: str) -> Finding:
    import torch

    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        return error("device", f"{device}: there are {torch.cuda.device_count()} GPUs, from 0 on", "name one of them")
    free, total = torch.cuda.mem_get_info(index)
    text = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    return ok("device", text)


def _cpu(threads: int) -> Finding:
    cores = len(os.sched_getaffinity(0))
    text = f"CPU, {cores} cores for {threads} threads of workers"
    if threads > cores:
        return warning("device", text, "make workers.count or workers.threads smaller: they will slow each other down")
    return ok("device", text)
