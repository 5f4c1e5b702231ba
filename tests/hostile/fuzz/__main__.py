"""``make fuzz``: every parser under atheris, which follows what code an input reaches.

Needs the extra ``fuzz``. What breaks a target is left in ``lab-results/fuzz/TARGET/``; once that is
mended it belongs into ``tests/hostile/fuzz/found/TARGET/``, where a test plays it for ever.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

WORK = Path("lab-results/fuzz")
MEMORY_MIB = 2048
INPUT_SECONDS = 60


def fuzz_one(name: str, seconds: int) -> None:
    """Fuzz a target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["orchestrator"]):
        from tests.hostile.fuzz.targets import TARGETS

    corpus, grown = WORK / name / "examples", WORK / name / "grown"
    for folder in (corpus, grown):
        folder.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(TARGETS[name].corpus(name)):
        (corpus / str(number)).write_bytes(example)
    options = (
        f"-max_total_time={seconds}",
        f"-artifact_prefix={WORK / name}/",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-timeout={INPUT_SECONDS}",
        "-print_final_stats=1",
        "-max_len=65536",
        "-verbosity=0",
    )
    atheris.Setup([sys.argv[0], *options, str(grown), str(corpus)], TARGETS[name].feed)
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--one"]:  # before anything of the lab is imported, to be followed
        fuzz_one(sys.argv[2], int(sys.argv[4]))
    from tests.hostile.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    broken = []
    for name in arguments.targets or TARGETS:
        argv = [sys.executable, "-m", "tests.hostile.fuzz", "--one", name]
        argv += ["--seconds", str(arguments.seconds)]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        told = f"{runs[1] if runs else 'no'} executions"
        print(f"{name:<14} {told:<22} {'ok' if done.returncode == 0 else 'BROKEN'}", flush=True)
        if done.returncode != 0:
            broken.append(name)
            print("\n".join((done.stdout + done.stderr).splitlines()[-40:]), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
