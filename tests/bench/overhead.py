#!/usr/bin/env python3
"""What a job costs more under pawl, with no snapshot due (or with --interval): elapsed time and CPU time as
ratios to the bare run, taken in turns in one run.

    overhead.py --pawl build/tools/pawl [--rounds 7] [--interval never] [-- CMD ...]

Without CMD: xz -T2 of a generated file, which is all computation on both cores.
"""
import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def measure(argv, env):
    """Elapsed and CPU seconds of argv with everything below it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env, check=False)
    elapsed = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)}: exit {done.returncode}")
    return elapsed, sum(getattr(after, t) - getattr(before, t) for t in ("ru_utime", "ru_stime"))


def make_input(path, mib):
    """Text-like data of which xz can make something."""
    rng = random.Random(1)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(5000)]
    with open(path, "wb") as file:
        while file.tell() < mib << 20:
            file.write(b" ".join(rng.choices(words, k=10000)) + b"\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pawl", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--interval", default="never")
    parser.add_argument("--mib", type=int, default=16, help="size of the file for xz")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pawl-bench-") as directory:
        command = options.command
        if not command:
            make_input(f"{directory}/input", options.mib)
            command = ["xz", "-6", "-T2", "--block-size=2MiB", "-k", "-c", f"{directory}/input"]
        env = dict(os.environ, PAWL_STORE=f"{directory}/store")
        watched = [os.path.abspath(options.pawl), "run", "-n", "bench", "--fresh", "-i", options.interval,
                   "--keep", "1", "--", *command]
        measure(command, env)  # warms the caches
        rounds = []
        for _ in range(options.rounds):
            rounds.append((measure(command, env), measure(watched, env)))
    elapsed = statistics.median(w[0] / b[0] for b, w in rounds)
    cpu = statistics.median(w[1] / b[1] for b, w in rounds)
    spread = max(b[0] for b, _ in rounds) / min(b[0] for b, _ in rounds)
    result = {"command": command, "interval": options.interval, "rounds": options.rounds,
              "bare_seconds": statistics.median(b[0] for b, _ in rounds),
              "elapsed_ratio": elapsed, "cpu_ratio": cpu, "bare_spread": spread}
    if options.json:
        print(json.dumps(result))
    else:
        print(f"bare {result['bare_seconds']:.2f} s (slowest/fastest {spread:.3f}); under pawl: elapsed "
              f"x {elapsed:.4f}, CPU x {cpu:.4f} (medians of {options.rounds} pairs)")


main()
