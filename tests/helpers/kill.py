"""Kill a short study at random moments and type the same command again, until it ends as an unbroken one does.

    cd tests && python -m helpers.kill --kills 100

Also: Ctrl-C at random moments (--interrupts), studies that share a cache (--together), a disk that is full at every
stage (--fill, needs the right to mount).
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from helpers.short_study import PIECE, Short, ends, make_table, results, start

DISK = 64 << 20
"""Bytes of the disk that is filled."""


def main() -> None:
    """Run what the command line asks for; a difference ends with a message and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--interrupts", type=int, default=0)
    parser.add_argument("--together", type=int, default=0, help="studies at once")
    parser.add_argument("--fill", action="store_true", help="fill a disk at each stage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = make_table(folder)
        reference = Short(recipe, folder / "unbroken", folder / "unbroken" / "cache")
        reference.clean()
        begun = time.monotonic()
        check(ends(start(reference)) == 0, reference, "the unbroken study failed")
        seconds = time.monotonic() - begun
        print(f"an unbroken study takes {seconds:.1f} s: {told(Counter(map(kind, reference.work())))}")
        if options.kills:
            kill(reference, folder, options.kills, seconds)
        if options.interrupts:
            interrupt(reference, folder, options.interrupts, seconds)
        if options.together:
            together(reference, folder, options.together)
        if options.fill:
            fill(reference, folder)


def kill(reference: Short, folder: Path, kills: int, seconds: float) -> None:
    """SIGKILL at a moment drawn evenly over an unbroken study's time or its work; after each, the same command."""
    done = resumed = finished = 0
    repeated: Counter[str] = Counter()
    broken = Short(reference.recipe, folder / "broken", folder / "broken" / "cache")
    while done < kills:
        broken.clean(reference.cache)
        code, of_series = None, 0
        while code is None:
            of_work = done % 2 == 1 and done < kills
            child = start(broken, random.randint(1, len(reference.work())) if of_work else None)
            code = ends(child, random.uniform(0, seconds) if done < kills and not of_work else None)
            if code is None:
                os.kill(child, signal.SIGKILL)
                code = ends(child)
            if code == -signal.SIGKILL:  # else it ended just before
                code, done, of_series = None, done + 1, of_series + 1
        check(code == 0, broken, f"the study ended with {code} after {of_series} kills")
        check_same(reference, broken)
        finished += 1
        resumed += of_series
        again = extra(reference, broken)
        chunks = again["pixels"] + again["activations"]
        check(chunks <= of_series, broken, f"{chunks} chunks were made again after {of_series} kills")
        check(
            again["step"] <= of_series * PIECE, broken, f"{again['step']} steps were repeated after {of_series} kills"
        )
        repeated += again
        print(f"  {done} kills so far, repeated work: {told(repeated)}", flush=True)
    print(f"{done} kills, {resumed} resumes, {finished} studies, all with the results of the unbroken one")
    print(f"repeated work: {told(repeated)}; {repeated['step'] / done:.1f} steps a kill")


def interrupt(reference: Short, folder: Path, interrupts: int, seconds: float) -> None:
    """Ctrl-C at random moments: a sentence and exit code 130 within two seconds; then the same command."""
    broken, slowest, count = Short(reference.recipe, folder / "interrupted", folder / "interrupted" / "cache"), 0.0, 0
    while count < interrupts:
        broken.clean(reference.cache)
        code = None
        while code != 0:
            child = start(broken)
            code = ends(child, random.uniform(seconds / 20, seconds) if count < interrupts else None)
            if code is None:
                begun = time.monotonic()
                os.kill(child, signal.SIGINT)
                code = ends(child)
                took = time.monotonic() - begun
                if code == 0:  # it was about to end
                    break
                check(code == 130, broken, f"Ctrl-C ended with {code}")
                busy = os.getloadavg()[0] > (os.cpu_count() or 1)  # then seconds are not the study's alone
                check(took < (10 if busy else 2), broken, f"Ctrl-C took {took:.1f} s")
                check("finished work is saved" in broken.said().splitlines()[-1], broken, "no word on what is saved")
                slowest, count = max(slowest, took), count + 1
        check_same(reference, broken)
    print(f"{count} times Ctrl-C: exit code 130, at most {slowest:.2f} s, same results")


def together(reference: Short, folder: Path, studies: int) -> None:
    """Studies at once sharing a cache: each ends as one alone, and no chunk is made twice."""
    all_of_them = [Short(reference.recipe, folder / f"study-{index}", folder / "shared") for index in range(studies)]
    for one in all_of_them:
        one.clean(reference.cache)
    children = [start(one) for one in all_of_them]
    for child, one in zip(children, all_of_them, strict=True):
        check(ends(child) == 0, one, "a study that shared the cache failed")
        check_same(reference, one)
    chunks = Counter(line for one in all_of_them for line in one.work() if line != "step")
    check(set(chunks.values()) == {1}, all_of_them[0], "chunks were made more than once")
    print(f"{studies} studies at once: same results, each of {len(chunks)} chunks made once")


def fill(reference: Short, folder: Path) -> None:
    """A small disk that another program fills at the moment a stage begins, for every stage: one sentence.

    Once there is room again, the study goes on. Stages that write nothing are stopped in the next one that does.
    """
    stages = list(dict.fromkeys(reference.stages()))
    disk, stopped = folder / "full" / "disk", Counter[str]()
    full = Short(reference.recipe, disk.parent, disk / "cache", disk)
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "thaw", disk], check=False).returncode:
        print("skipped: a disk of its own cannot be mounted here")
        return
    try:
        for stage in stages:
            full.clean(reference.cache)
            code = ends(start(full, fills_in=stage))
            line = full.said().strip().splitlines()[-1]
            check(code == 2 and "not enough disk space in" in line, full, f"a full disk, {stage}, ended with {code}")
            place = Path(line.split(" disk space in ")[1].split(" (")[0]).relative_to(disk)
            stopped["/".join(place.parts[:2])] += 1
            full.make_room()
            check(ends(start(full)) == 0, full, f"the study did not go on after the disk was full, {stage}")
            check_same(reference, full)
    finally:
        subprocess.run(["umount", disk], check=True)
    print(f"a disk of {DISK >> 20} MiB, full at each of {len(stages)} stages ({', '.join(stages)}):")
    print(f"  one sentence each, where something was written ({told(stopped)}), and the same results in the end")


def check_same(reference: Short, broken: Short) -> None:
    """End with a message where two studies differ in what they found, or left something half written."""
    expected, found = results(reference), results(broken)
    check(
        found["metrics"] == expected["metrics"],
        broken,
        f"metrics.json differs: {differing(expected['metrics'], found['metrics'])}",
    )
    check(found["predictions"] == expected["predictions"], broken, "predictions.parquet differs")
    names = [{str(path.relative_to(one.run)) for path in one.run.rglob("*")} for one in (reference, broken)]
    check(names[0] == names[1], broken, f"the run folders hold different files: {names[0] ^ names[1]}")
    check("Traceback" not in broken.said(), broken, "there was a traceback")


def differing(expected: Any, found: Any, where: str = "") -> str:
    """Where two JSON values differ first."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted(expected.keys() | found.keys())
        return next(
            (differing(expected.get(k), found.get(k), f"{where}.{k}") for k in keys if expected.get(k) != found.get(k)),
            "",
        )
    return f"{where} is {found}, not {expected}"


def extra(reference: Short, broken: Short) -> Counter[str]:
    """How often work of each kind was begun beyond what an unbroken study begins."""
    return Counter(map(kind, broken.work())) - Counter(map(kind, reference.work()))


def kind(line: str) -> str:
    """The kind of work that a line notes."""
    return line.split()[0]


def told(counts: Counter[str]) -> str:
    """Counts in words."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def check(fine: bool, short: Short, problem: str) -> None:
    """End the script with what went wrong and what the study said last."""
    if not fine:
        sys.exit(f"{problem}\n" + "\n".join(short.said().splitlines()[-30:]))


if __name__ == "__main__":
    main()
