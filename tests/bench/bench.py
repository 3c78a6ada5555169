#!/usr/bin/env python3
"""Measures pawl on this machine, beside the machine's limits and, where they are on the PATH, CRIU (needs root) and
DMTCP. Prints a table and writes a JSON file. The default set takes about 15 minutes on a quiet machine with 24 GiB.

A figure is the median of several measurements, taken in turns with what it is compared to. `must` is the bound that
the project has set itself; nothing fails because a figure misses it. What is measured again (--only) replaces what
the JSON file has of it, the rest stays.
"""
import argparse
import ctypes
import fnmatch
import json
import os
import platform
import pwd
import signal
import sys
import time

import figures
import figures_more  # noqa: F401: registers its groups
import model
import real_jobs  # noqa: F401
from measuring import Broken, Lab, Unavailable

PR_SET_CHILD_SUBREAPER = 36
BINARIES = {"pawl": "tools/pawl", "benchjob": "tests/bench/benchjob", "limits": "tests/bench/limits"}


def default_user():
    try:
        return pwd.getpwnam("pawltest").pw_name
    except KeyError:
        return None


def parse_options():
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="build directory (default: build)")
    parser.add_argument("--out", default="bench.json", metavar="FILE", help="results (default: bench.json)")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="groups to measure, as --list names them; globs")
    parser.add_argument("--missing", action="store_true", help="only groups that the results do not have yet")
    parser.add_argument("--list", action="store_true", help="print the groups and how long each takes")
    parser.add_argument("--show", action="store_true", help="print the table of the results, measure nothing")
    parser.add_argument("--model", action="store_true", help="what jobs of up to 1 TiB would cost, from the results")
    parser.add_argument("--long", action="store_true", help="also the groups that take long")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measurements of each figure (default: 5)")
    parser.add_argument("--snapshots", type=int, default=50, metavar="N", help="of the pause's distribution (default: 50)")
    parser.add_argument("--quick", action="store_true", help="an eighth of the sizes, 10 snapshots: two minutes")
    parser.add_argument("--smoke", action="store_true", help="does the harness itself work? Figures mean nothing")
    parser.add_argument("--dir", default=os.environ.get("TMPDIR", "/var/tmp"), help="where stores are made: the disk that is "
                        "measured (default: $TMPDIR, else /var/tmp)")
    parser.add_argument("--user", default=default_user(), help="as root: who runs pawl and its jobs (default: pawltest "
                        "if there is one, else root)")
    options = parser.parse_args()
    options.scale, options.spin, options.real_seconds = 1, 800, 130
    if options.quick:
        options.scale, options.spin, options.snapshots, options.real_seconds = 8, 300, min(options.snapshots, 10), 65
    if options.smoke:
        options.scale, options.spin, options.rounds, options.snapshots, options.real_seconds = 64, 10, 1, 2, 1
    options.binaries = {name: os.path.join(options.build, path) for name, path in BINARIES.items()}
    return options


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "")
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) >> 10
    return dict(kernel=platform.release(), cpu=model, cores=len(os.sched_getaffinity(0)), memory_mib=memory)


def wanted(options, results):
    names = []
    patterns = options.only.split(",") if options.only else None
    for name, entry in figures.GROUPS.items():
        if patterns:
            chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        else:
            chosen = options.long or not entry["long"]
        if chosen and not (options.missing and name in results["groups"]):
            names.append(name)
    if patterns and not names and not options.missing:
        sys.exit(f"tools/bench: no group is called {options.only}; --list names them")
    return names


def measure(name, options):
    """One group. A figure that cannot be had is a result too."""
    lab = Lab(options)
    entry = dict(begun=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), load=os.getloadavg()[0], rounds=options.rounds,
                 scale=options.scale)
    begin = time.monotonic()
    try:
        entry["rows"] = figures.GROUPS[name]["run"](lab)
    except Unavailable as reason:
        entry.update(rows=[], unavailable=str(reason))
    except (Broken, OSError, ValueError, KeyError, IndexError) as reason:
        entry.update(rows=[], broken=f"{type(reason).__name__}: {reason}")
    finally:
        lab.close()
    entry["seconds"] = round(time.monotonic() - begin, 1)
    return entry


def load_results(path):
    try:
        with open(path) as f:
            return json.load(f)
    except FileNotFoundError:
        return dict(groups={})


def save_results(path, results):
    with open(path + ".new", "w") as f:
        json.dump(results, f, indent=1)
        f.write("\n")
    os.replace(path + ".new", path)


def number(value):
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def print_group(name, entry):
    scale = f", sizes / {entry['scale']}" if entry["scale"] > 1 else ""
    print(f"\n{name}: {figures.GROUPS[name]['about'] if name in figures.GROUPS else ''} "
          f"({entry['seconds']:.0f} s, load {entry['load']:.1f}{scale})")
    for key in ("unavailable", "broken"):
        if key in entry:
            print(f"  {key}: {entry[key]}")
    for r in entry["rows"]:
        met = {True: "met", False: "MISSED", None: ""}[r["met"]]
        print(f"  {r['what'][:72]:72} {number(r['value']):>8} {r['unit']:5} {r['must'] or '':>10} {met}")
        spread = f"{number(min(r['samples']))} to {number(max(r['samples']))}" if r["samples"] and len(r["samples"]) > 1 else None
        detail = "; ".join(filter(None, [spread, r["note"]]))
        if detail:
            print(f"      {detail}")
    sys.stdout.flush()


def print_list():
    for name, entry in figures.GROUPS.items():
        print(f"{name:14} {entry['seconds']:5} s  {entry['about']}{' (--long)' if entry['long'] else ''}")


def be_orderly():
    """A job that a peer has restored becomes our child when the peer ends; a signal ends what we have started."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main():
    be_orderly()
    options = parse_options()
    results = load_results(options.out)
    if options.list:
        print_list()
        return 0
    if options.model:
        try:
            model.print_model(results)
        except model.Missing as reason:
            sys.exit(f"tools/bench: {reason}")
        return 0
    for path in [] if options.show else options.binaries.values():
        if not os.access(path, os.X_OK):
            sys.exit(f"tools/bench: {path} is missing: 'ninja -C {options.build}' builds it")
    names = sorted(results["groups"]) if options.show else wanted(options, results)
    if not options.show:
        print(f"about {sum(figures.GROUPS[n]['seconds'] for n in names) // options.scale // 60 + 1} minutes: {', '.join(names)}")
    for name in names:
        if not options.show:
            results["machine"] = machine()
            results["groups"][name] = measure(name, options)
            save_results(options.out, results)
        print_group(name, results["groups"][name])
    broken = [name for name in names if "broken" in results["groups"][name]]
    return 1 if broken else 0


sys.exit(main())
