#!/usr/bin/env python3
"""Does tools/bench work? Runs a few of its groups with tiny sizes and looks at what they leave.

    smoke.py BENCH.PY BUILD
"""
import json
import math
import os
import subprocess
import sys
import tempfile

GROUPS = {"limits": 13, "pause": 8, "first": 5}  # and how many rows each has
ROW = {"name": str, "what": str, "value": float, "unit": str}


def check(condition, message):
    if not condition:
        sys.exit(f"smoke.py: {message}")


def check_row(row):
    for key, kind in ROW.items():
        check(key in row, f"a row without {key}: {row}")
        check(row[key] is None or isinstance(row[key], (kind, int)), f"{key} of {row}")
    if row["value"] is None:
        check(row["note"], f"no figure, and no reason: {row}")
    else:
        check(math.isfinite(row["value"]), f"not a number: {row}")
    check((row["met"] is None) == (row["value"] is None or not row["must"]), f"'met' of {row}")


def main():
    bench, build = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="pawl-smoke-") as directory:
        out = os.path.join(directory, "bench.json")
        command = [sys.executable, "-B", bench, "--build", build, "--out", out]
        done = subprocess.run([*command, "--smoke", "--only", ",".join(GROUPS)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, check=False)
        check(done.returncode == 0, f"exit {done.returncode}: {done.stdout.decode()}")
        with open(out) as f:
            results = json.load(f)
        check(results["machine"]["cores"] > 0, "no machine")
        check(set(results["groups"]) == set(GROUPS), f"groups: {set(results['groups'])}")
        for name, count in GROUPS.items():
            group = results["groups"][name]
            check(len(group["rows"]) == count, f"{name} has {len(group['rows'])} rows, not {count}: {group}")
            for row in group["rows"]:
                check_row(row)
        measured = [row["value"] for row in results["groups"]["pause"]["rows"]]
        check(all(value is not None for value in measured), f"pauses: {measured}")
        check(results["groups"]["first"]["rows"][1]["value"] > 0, "no recovery")
        shown = subprocess.run([*command, "--show"], stdout=subprocess.PIPE, check=True).stdout.decode()
        for name in GROUPS:
            check(f"\n{name}: " in shown, f"--show without {name}: {shown}")
        missing = subprocess.run([*command, "--smoke", "--missing", "--only", "limits"], stdout=subprocess.PIPE, check=True)
        check(b"limits" not in missing.stdout, f"--missing measured again: {missing.stdout}")


main()
