"""The figures of tools/bench: groups of rows, each measured in one run.

A group takes the lab and returns rows. `must`: the bound that the project has set itself, as text ("<= 10").
"""
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import time

from measuring import (GIB, MIB, PAGE, Broken, Job, PawlJob, Unavailable, bench_command, device_written, median, proc_field,
                       start_bench)
from peers import PEERS
from probing import largest_below, reading_at_random, reading_flags

GROUPS = {}


def group(name, seconds, long=False):
    """Registers a group that takes about so long. long: not in the default set."""
    def register(function):
        GROUPS[name] = dict(run=function, seconds=seconds, long=long, about=function.__doc__.strip().splitlines()[0])
        return function
    return register


def row(name, what, value, unit, must=None, samples=None, note=None):
    met = None
    if must and value is not None:
        relation, bound = must.split()
        met = value <= float(bound) if relation == "<=" else value >= float(bound)
    return dict(name=name, what=what, value=value, unit=unit, must=must, met=met, samples=samples, note=note)


def of_samples(name, what, values, unit, must=None, note=None):
    """The median as the row's value."""
    values = [v for v in values if v is not None]
    if not values:
        return row(name, what, None, unit, must, note=note or "cannot be measured here")
    return row(name, what, median(values), unit, must, [round(v, 6) for v in values], note)


def ms(microseconds):
    return None if microseconds is None else microseconds / 1000


def changed_gib(info):
    return info["pages_changed"] * PAGE / GIB


@contextlib.contextmanager
def standing_still(*jobs):
    """They leave the CPUs to the one that is measured: where two jobs share them, each waits for the other."""
    pids = [largest_below(job.pid) if isinstance(job, PawlJob) else job.pid for job in jobs]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def warm_up(job, snapshots=2):
    """The first snapshot is a full one, and the first buffers are fresh memory."""
    for _ in range(snapshots):
        job.snapshot()
    job.settle()


# ---- the machine -------------------------------------------------------------------------------------

LIMITS = [
    ("read", "process_vm_readv of a live process", "GB/s", 1e9, 256, False),
    ("readpages", "… of every fifth page, 2 GiB", "GB/s", 1e9, 2048, False),
    ("copy", "memcpy of memory that is there", "GB/s", 1e9, 256, False),
    ("hash", "XXH3-128 of each page", "GB/s", 1e9, 256, False),
    ("lz4", "LZ4 of each page, one thread", "GB/s", 1e9, 256, False),
    ("lz4page", "what a page of the job takes, LZ4", "bytes", 1, 64, False),
    ("write", "sequential write and fdatasync of 1 GiB", "GB/s", 1e9, 1024, False),
    ("writecpu", "CPU time of that, per GiB", "s", 1, 1024, False),
    ("fill", "first touch and filling of 1 GiB, all cores", "GB/s", 1e9, 1024, True),
    ("fork", "fork, per GiB", "ms", 1e-3, 512, False),
    ("scan", "PAGEMAP_SCAN and protect, 1 % written, per GiB", "ms", 1e-3, 512, False),
    ("protect", "first write to a protected page", "µs", 1e-6, 256, False),
]


@group("limits", 35)
def limits(lab):
    """What the machine can do at best"""
    samples = {what: [] for what, *_ in LIMITS}
    for _ in range(lab.rounds):
        for what, _, _, unit, mib, threaded in LIMITS:
            value = lab.limit(what, mib, lab.cores if threaded else 1)
            samples[what].append(None if value is None else value / unit)
    rows = [of_samples(f"limit-{what}", text, samples[what], unit) for what, text, unit, *_ in LIMITS]
    return rows + [floor({what: None if r["value"] is None else r["value"] * unit
                          for r, (what, _, _, unit, *_) in zip(rows, LIMITS)})]


def parts_alone(limit, read):
    """Core-seconds per GiB of what every snapshot does, each measured alone; limit: as bench/limits tells, read: which way."""
    return dict(write=limit["writecpu"] * limit["lz4page"] / PAGE, read=GIB / limit[read],
                **{name: GIB / limit[name] for name in ("hash", "lz4")})


def floor(limit):
    """What a GiB of changed pages takes at least, from the parts measured alone."""
    what = "core-seconds per GiB changed at least: fault, read, hash, LZ4, write"
    needed = ("protect", "readpages", "hash", "lz4", "writecpu", "lz4page")
    if any(limit[name] is None for name in needed):
        return row("limit-floor", what, None, "s", note="not all of it can be measured here")
    parts = dict(faults=limit["protect"] * GIB / PAGE, **parts_alone(limit, "readpages"))
    return row("limit-floor", what, sum(parts.values()), "s", note=", ".join(f"{k} {v:.2f}" for k, v in parts.items()))


# ---- the reference job -------------------------------------------------------------------------------

def reference_job(lab, size=2048, rate=320):
    lab.need(memory=size + size // 2, disk=size * 4)
    return start_bench(lab, ["--keep", "3"], size=lab.size(size), rate=max(1, rate // lab.scale))


def quiet_gap(job, seconds=1.5):
    """What the job sees where nobody disturbs it but the machine."""
    begin = time.monotonic()
    job.settle(max(3, int(seconds * 10)))
    return job.worst(begin, time.monotonic(), 3)


PAUSES_MOST = 150  # seconds for the distribution of pauses; a slow machine has fewer of them


@group("pause", 90)
def pause(lab):
    """Pause of 50 snapshots, 2 GiB at 320 MiB/s; what they cost"""
    count = lab.options.snapshots
    with reference_job(lab) as job:
        job.settle(15)
        bare_cpu = job.cpu_per_step(job.output.of("ready")[0][0])
        warm_up(job)
        quiet = quiet_gap(job)
        begin, seen = time.monotonic(), []
        while len(seen) < count and (len(seen) < 5 or time.monotonic() < begin + PAUSES_MOST):
            seen.append(job.seen_snapshot())
            job.settle(2)
        steps = len(job.output.of("step", begin))
        tracked_cpu = job.cpu_per_step(begin)
    gib = sum(changed_gib(i) for i in seen)
    cpu = sum(i["cpu"] for i in seen)
    extra = (tracked_cpu - bare_cpu) * steps
    gaps = [ms(i["gap_us"]) for i in seen]
    pauses = [ms(i["pause_us"]) for i in seen]
    stalls = [max(0, i["step_us"] / 1000 - 100) for i in seen]
    note = f"the same gap with no snapshot: {ms(quiet):.1f} ms"
    return [
        of_samples("pause-job", "pause as the job sees it, median", gaps, "ms", "<= 10", note),
        row("pause-job-worst", f"… worst of {len(seen)}", max(gaps), "ms", "<= 40", note=note),
        of_samples("pause-step", "longest step of the job beyond its 100 ms", stalls, "ms"),
        of_samples("pause-pawl", "pause as pawl reports it, median", pauses, "ms", "<= 10"),
        row("pause-pawl-worst", f"… worst of {len(seen)}", max(pauses), "ms", "<= 40"),
        of_samples("snapshot-wall", "from request to durable", [i["wall_us"] / 1e6 for i in seen], "s"),
        row("cost", "core-seconds per GiB changed, all in", (cpu + extra) / gib, "s", "<= 1.2", note=f"{gib:.2f} GiB changed: "
            f"{cpu:.2f} s in pawl, {extra:.2f} s more in the job (faults) than before it was tracked"),
        row("cost-pawl", "… of it in pawl itself", cpu / gib, "s"),
    ]


@group("peers", 80)
def peers(lab):
    """Pause beside CRIU and DMTCP, taken in turns, 2 GiB at 320 MiB/s"""
    rows = []
    for peer in PEERS:
        try:
            rows += beside(lab, peer)
        except (Unavailable, Broken) as reason:
            rows.append(row(f"pause-times-{peer.name.lower()}", f"{peer.name}'s pause over pawl's", None, "x", note=str(reason)))
    return rows


def beside(lab, peer):
    ours, theirs, frozen = [], [], []
    name = peer.name
    options = dict(size=lab.size(2048), rate=max(1, 320 // lab.scale))
    lab.need(memory=9000, disk=9000)
    with peer(lab, **options) as other, reference_job(lab) as job:
        with standing_still(other):
            warm_up(job)
        for _ in range(lab.rounds):
            with standing_still(other):
                job.settle()
                ours.append(job.seen_snapshot()["gap_us"] / 1000)
            with standing_still(job):
                other.settle()
                info = other.snapshot()
            theirs.append(info["gap_us"] / 1000)
            frozen.append(info["pause_us"])
    rows = [row(f"pause-times-{name.lower()}", f"{name}'s pause over pawl's, by the job's own gap",
                median(theirs) / median(ours), "x", f">= {peer.factor}", note=f"{name} {median(theirs):.0f} ms, pawl {median(ours):.1f} ms")]
    if None not in frozen:
        rows.append(of_samples(f"frozen-{name.lower()}", f"{name}'s frozen time", [ms(f) for f in frozen], "ms"))
    rows.append(row(f"bytes-{name.lower()}", f"bytes of each checkpoint, {name}", info["bytes_stored"] / MIB, "MiB"))
    return rows


# ---- the cost to a job that works --------------------------------------------------------------------

CYCLES = 9  # about so many from one snapshot to the next


def lost_seconds(job, pairs):
    """Seconds that each of so many snapshots costs a job of fixed cycles of work, the MiB that had changed, seconds of a
    cycle. The cycles from the request to one after the end are held against those before."""
    losses, changed, plain = [], [], []
    for _ in range(pairs):
        before = len(job.output.of("step"))
        job.settle(CYCLES - 4)
        start = len(job.output.of("step"))
        info = job.snapshot()
        job.settle(2)
        cycles = [int(words[2]) / 1e6 for _, words in job.output.of("step")]
        base = median(cycles[before + 1:start])
        plain.append(base)
        losses.append(sum(cycles[start:]) - base * (len(cycles) - start))
        changed.append(info["pages_changed"] * PAGE / MIB)
    return losses, changed, plain


def changed_in(seconds, rate, size):
    """MiB, of pages written at random."""
    return size * (1 - math.exp(-rate * seconds / size))


def slowdown(lab, rate, must):
    """Minutes are made short: each cycle, of a second or so, writes a part of what a minute does, but no less than the job
    does in that time."""
    size, rate = lab.size(2048), rate / lab.scale
    burst = math.ceil(max(1, rate * 1.2, min(rate * 60, size) / CYCLES))
    lab.need(memory=3500, disk=9000)
    with start_bench(lab, ["--keep", "2"], mode="work", size=size, burst=burst, threads=lab.cores,
                     spin=max(10, lab.options.spin)) as job:
        job.settle(2)
        warm_up(job, 1)
        losses, changed, cycles = lost_seconds(job, lab.rounds)
    minute = changed_in(60, rate, size)
    name = f"{rate * lab.scale:.0f}"
    return of_samples(f"slowdown-{name}", f"slowdown, snapshot every 60 s, {name} MiB/s",
                      [100 * loss / 60 * minute / mib for loss, mib in zip(losses, changed)], "%", must,
                      f"a snapshot of {median(changed):.0f} MiB costs the job {median(losses):.2f} s; a minute changes {minute:.0f} MiB; "
                      f"cycles take {median(cycles):.1f} s ({min(cycles):.1f} to {max(cycles):.1f})")


@group("slowdown", 200)
def slowdowns(lab):
    """Elapsed time of fixed work on all cores, snapshots every 60 s"""
    return [slowdown(lab, 3, "<= 1"), slowdown(lab, 32, "<= 2"), slowdown(lab, 320, "<= 5")]


def fixed_work(lab, watched, cycles, **options):
    """Elapsed seconds inside the job, and of the whole command."""
    command = bench_command(lab, mode="work", threads=lab.cores, steps=cycles, **options)
    begin = time.monotonic()
    with PawlJob(lab, command, watched) if watched is not None else Job(lab, command, lab.subdir()) as job:
        job.process.wait()
        whole = time.monotonic() - begin
        job.output.thread.join()
        steps = [int(words[2]) / 1e6 for _, words in job.output.of("step")]
        if len(steps) != cycles:
            raise Broken(f"the job ended early: {job.said()}")
    return sum(steps), whole


@group("idle", 60)
def idle(lab):
    """Elapsed time of fixed work under pawl with no snapshot due, beside the bare run"""
    options = dict(size=lab.size(256), burst=lab.size(256), spin=max(10, lab.options.spin // 2))
    rounds = []
    for _ in range(lab.rounds):
        rounds.append((fixed_work(lab, None, 6, **options), fixed_work(lab, [], 6, **options)))
    bare = [b[0] for b, _ in rounds]
    spread = 100 * (max(bare) / min(bare) - 1)
    return [
        of_samples("slowdown-none", "slowdown, no snapshot due", [100 * (w[0] / b[0] - 1) for b, w in rounds], "%",
                   f"<= {max(0.5, round(spread, 2))}", f"the bare runs differ by {spread:.1f} %"),
        of_samples("launch", "longer start and end of the command", [(w[1] - w[0]) - (b[1] - b[0]) for b, w in rounds], "s"),
    ]


@group("slowdown-real", 2400, long=True)
def slowdown_real(lab):
    """The slowdown with real periods of 60 s, beside bare runs"""
    rows = []
    for rate, must in ((3, "<= 1"), (32, "<= 2"), (320, "<= 5")):
        # One second of work a cycle, as fast as the machine is.
        options = dict(size=lab.size(2048), burst=max(1, rate // lab.scale), spin=max(10, lab.options.spin // 5))
        probe = fixed_work(lab, None, 5, **options)[0] / 5
        cycles = max(2, int(lab.options.real_seconds / probe))
        ratios = []
        for _ in range(lab.rounds):
            bare = fixed_work(lab, None, cycles, **options)[0]
            ratios.append(fixed_work(lab, ["-i", "60s", "--keep", "2"], cycles, **options)[0] / bare)
        rows.append(of_samples(f"slowdown-real-{rate}", f"slowdown, {lab.options.real_seconds} s of work, {rate} MiB/s",
                               [100 * (r - 1) for r in ratios], "%", must))
    return rows


# ---- bytes -------------------------------------------------------------------------------------------

@group("bytes", 80)
def bytes_stored(lab):
    """Store growth and bytes written, over the new pages as LZ4 packs them; a job that changes nothing"""
    lab.need(memory=3500, disk=10000)
    page = lab.limit("lz4page", 64)
    with start_bench(lab, size=lab.size(2048), rate=max(1, 320 // lab.scale)) as job:
        warm_up(job)
        seen = []
        for _ in range(lab.rounds + 3):
            seen.append(job.snapshot())
            job.settle(3)
    packed = [i["pages_changed"] * page for i in seen]
    grown = sum(i["disk"] for i in seen) / sum(packed)
    written = [i["written"] / p for i, p in zip(seen, packed) if i["written"] is not None]
    rows = [
        of_samples("growth", "bytes stored over compressed changed pages", [i["bytes_stored"] / p for i, p in zip(seen, packed)],
                   "x", "<= 1.10", f"a page: {page:.0f} bytes; the files grew by {grown:.2f} x"),
        of_samples("amplification", "bytes written over compressed changed pages", written, "x", "<= 1.3",
                   "write_bytes of /proc/PID/io"),
    ]
    rows.append(thinned(lab, page))
    for size in (256, 2048):
        with start_bench(lab, size=lab.size(size), rate=0) as job:
            warm_up(job, 3)
            stored = [job.snapshot()["bytes_stored"] / 1024 for _ in range(lab.rounds)]
        rows.append(of_samples(f"unchanged-{size}", f"bytes stored where nothing has changed, {size} MiB", stored, "KiB", "<= 64"))
    return rows


KEPT = 3


def thinned(lab, page):
    """Where old snapshots are dropped: the space that they leave is collected, and some of what is left is moved."""
    with start_bench(lab, ["--keep", str(KEPT)], size=lab.size(2048), rate=max(1, 320 // lab.scale)) as job:
        warm_up(job, KEPT)
        before, packed = device_written(job.store), 0
        for _ in range(5 * (lab.rounds + 1)):
            packed += job.snapshot()["pages_changed"] * page
            job.settle(3)
        written = None if before is None else device_written(job.store) - before
    return row("amplification-kept", f"… {KEPT} snapshots kept, with all that it takes to collect the others",
               None if written is None else written / packed, "x", "<= 1.3",
               note=f"what its disk was given by everybody: {written / MIB:.0f} MiB" if written else "its disk does not tell")


# ---- first snapshot, recovery ------------------------------------------------------------------------

def has_lazy(lab):
    done = subprocess.run([lab.binary("pawl"), "doctor", "--json"], stdout=subprocess.PIPE, check=False,
                          cwd=lab.subdir(), **lab.as_user())
    return any(line["what"] == "lazy recovery" and line["state"] == "ok" for line in json.loads(done.stdout))


def one_life(lab, seen, lazy):
    """Launch, first snapshot, kill, recover; and what bounds it, measured right beside."""
    size = lab.size(2048) * MIB
    with start_bench(lab, size=lab.size(2048), rate=max(1, 320 // lab.scale)) as job:
        first = job.snapshot()
        busy = job.cpu_per_step(first["begin"]) * 10
        job.kill()
        again, seconds = job.recover()
        again.kill()
        if lazy:
            again, soon = job.recover(["--lazy"])
            again.kill()
            seen["lazy"].append(soon * 1000)
        shutil.rmtree(job.store, ignore_errors=True)
    seen["first"].append(first["pages_resident"] * PAGE / (first["wall_us"] / 1e6))
    seen["recovery"].append(seconds)
    seen["fill"].append(lab.limit("fill", 2048, lab.cores))
    lz4, write = lab.limit("lz4", 512, lab.cores), lab.limit("write", 1024)
    alone = {what: lab.limit(what, 256) for what in ("read", "hash", "lz4", "lz4page")}
    alone["writecpu"] = lab.limit("writecpu", 1024)
    if None not in alone.values():
        seen["possible"].append((lab.cores - busy) * GIB / sum(parts_alone(alone, "read").values()))
    seen["bound"].append(min(lz4, write * PAGE / lab.limit("lz4page", 16)))
    seen["fill-ratio"].append(size / seconds / seen["fill"][-1])


@group("first", 90)
def first_and_recovery(lab):
    """First snapshot against compression and disk; recovery against fault-in and fill, 2 GiB"""
    lab.need(memory=5000, disk=7000)
    seen = {key: [] for key in ("first", "recovery", "fill", "bound", "possible", "fill-ratio", "lazy")}
    lazy = has_lazy(lab)
    for _ in range(lab.rounds):
        one_life(lab, seen, lazy)
    rows = [
        of_samples("first", "first snapshot over the slower of LZ4 on all cores and synced write",
                   [f / b for f, b in zip(seen["first"], seen["bound"])], "x", ">= 0.7",
                   f"{median(seen['first']) / 1e9:.2f} of {median(seen['bound']) / 1e9:.2f} GB/s"),
        of_samples("first-parts", "… over that of the cores the job leaves, which read, hash, compress and write and do nothing else",
                   [f / p for f, p in zip(seen["first"], seen["possible"])], "x",
                   note=f"{median(seen['possible']) / 1e9:.2f} GB/s" if seen["possible"] else None),
        of_samples("recovery", "recovery to the first instruction", seen["recovery"], "s"),
        of_samples("recovery-fill", "its rate over that of fault-in and fill, all cores", seen["fill-ratio"], "x", ">= 0.6",
                   f"fill: {median(seen['fill']) / 1e9:.2f} GB/s"),
    ]
    if lazy:
        rows.append(of_samples("recovery-lazy", "recover --lazy to the first instruction", seen["lazy"], "ms", "<= 100"))
    else:
        rows.append(row("recovery-lazy", "recover --lazy to the first instruction", None, "ms", "<= 100",
                        note="not for this user: --user root"))
    return rows


@group("restart-peers", 60)
def restart_peers(lab):
    """Recovery beside CRIU and DMTCP, taken in turns, 2 GiB"""
    rows = []
    for peer in PEERS:
        name = f"recovery-times-{peer.name.lower()}"
        try:
            rows.append(restart_beside(lab, peer, name))
        except (Unavailable, Broken) as reason:
            rows.append(row(name, f"{peer.name}'s restart over pawl's", None, "x", note=str(reason)))
    return rows


def restart_beside(lab, peer, name):
    options = dict(size=lab.size(2048), rate=max(1, 320 // lab.scale))
    lab.need(memory=9000, disk=9000)
    ours, theirs = [], []
    with peer(lab, **options) as other, start_bench(lab, **options) as job:
        job.snapshot()
        job.kill()
        other.prepare()
        for _ in range(lab.rounds):
            again, seconds = job.recover()
            again.kill()
            ours.append(seconds)
            theirs.append(other.restore())
    return row(name, f"{peer.name}'s restart over pawl's", median(theirs) / median(ours), "x", ">= 1",
               note=f"{peer.name} {median(theirs):.2f} s, pawl {median(ours):.2f} s")


# ---- scale -------------------------------------------------------------------------------------------

def small_change(jobs, lab):
    """Snapshots of several jobs in turns, each with what a second has changed."""
    seen = [[] for _ in jobs]
    for _ in range(lab.rounds):
        for job, list_ in zip(jobs, seen):
            with standing_still(*(other for other in jobs if other is not job)):
                job.settle(10)
                list_.append(job.seen_snapshot())
    return seen


@group("size", 120)
def size(lab):
    """16 GiB resident against 1 GiB, 32 MiB changed in each"""
    lab.need(memory=18500, disk=20000)
    change = max(1, 32 // lab.scale)
    with start_bench(lab, ["--keep", "2"], size=lab.size(1024), rate=change) as small, \
            start_bench(lab, ["--keep", "2"], size=lab.size(16384), rate=change) as large:
        for job in (small, large):
            warm_up(job)
        a, b = small_change([small, large], lab)
        bound = work_bound([small, large], [a, b])
        small.kill()
    rows = []
    for field, what, unit, divide, must in (("pause_us", "pause", "ms", 1000, "<= 3"), ("gap_us", "pause as the job sees it", "ms", 1000, None),
                                            ("cpu", "total work", "s", 1, "<= 2")):
        low, high = (median([i[field] / divide for i in side]) for side in (a, b))
        rows.append(row(f"size-{field.removesuffix('_us')}", f"{what}, 16 GiB over 1 GiB, 32 MiB changed", high / max(low, 1e-9), "x", must,
                        note=f"{high:.3g} and {low:.3g} {unit}; {median([changed_gib(i) for i in b]) * 1024:.0f} and "
                             f"{median([changed_gib(i) for i in a]) * 1024:.0f} MiB changed"))
    return rows + [bound]


def work_bound(jobs, seen):
    """What the kernel alone makes of the ratio of work: pages are dearer to read in more memory, and flags are asked for."""
    what = "… by the kernel's share alone: reading the same pages at random, and smaps once"
    try:
        pids = [largest_below(job.pid) for job in jobs]
        flags = [median([reading_flags(pid) for _ in range(5)]) for pid in pids]
        reads = [median([reading_at_random(pid, 8192) for _ in range(5)]) / 8192 for pid in pids]
    except (Unavailable, OSError) as reason:
        return row("size-cpu-kernel", what, None, "x", note=str(reason))
    low, high = (median([i["cpu"] for i in side]) for side in seen)
    pages = median([changed_gib(i) for i in seen[1]]) * GIB / PAGE
    more = flags[1] - flags[0] + (reads[1] - reads[0]) * pages
    return row("size-cpu-kernel", what, (low + more) / max(low, 1e-9), "x",
               note=f"of {high - low:.2f} s more, {flags[1] - flags[0]:.2f} s for smaps, "
                    f"{(reads[1] - reads[0]) * pages:.2f} s for pages ({reads[1] * 1e6:.2f} instead of {reads[0] * 1e6:.2f} µs each)")


@group("layouts", 60)
def layouts(lab):
    """20,000 regions; 2,000 threads; transparent huge pages"""
    rows = []
    shapes = [
        ("regions", "20,000 regions", dict(layout="small", size=512, rate=32, regions=20000 // lab.scale), "<= 60"),
        ("threads", "2,000 threads", dict(size=256, rate=32, idle=2000 // lab.scale), "<= 150"),
        ("huge", "transparent huge pages, 2 GiB, 320 MiB/s", dict(layout="huge", size=2048, rate=320), None),
    ]
    for name, what, options, must in shapes:
        lab.need(memory=options["size"] * 2, disk=options["size"] * 3)
        options["size"] = lab.size(options["size"])
        with start_bench(lab, ["--keep", "2"], **options) as job:
            warm_up(job)
            seen = []
            for _ in range(lab.rounds):
                seen.append(job.seen_snapshot())
                job.settle(3)
        rows.append(of_samples(f"pause-{name}", f"pause, {what}", [ms(i["pause_us"]) for i in seen], "ms", must,
                               f"as the job sees it: {median([ms(i['gap_us']) for i in seen]):.1f} ms"))
    return rows


@group("shared", 25)
def shared(lab):
    """16 processes that share 1 GiB after fork: stored once"""
    lab.need(memory=2500, disk=3000)
    page = lab.limit("lz4page", 64)
    with start_bench(lab, layout="fork", size=lab.size(1024), rate=1, threads=1) as job:
        job.settle()
        first = job.snapshot()
        seen = [job.seen_snapshot() for _ in range(lab.rounds)]
    once = lab.size(1024) * MIB / PAGE * page
    return [
        row("shared", "bytes stored over the shared memory's own, packed once", first["bytes_stored"] / once, "x", "<= 1.05",
            note=f"{first['processes']} processes, {first['bytes_raw'] / GIB:.2f} GiB new"),
        of_samples("pause-shared", "pause of later snapshots, 16 processes of 1 GiB shared", [ms(i["pause_us"]) for i in seen], "ms"),
    ]


@group("outrun", 40)
def outrun(lab):
    """A job that rewrites all its memory faster than it can be copied"""
    budget = max(64, 256 // lab.scale)
    help_text = subprocess.run([lab.binary("pawl"), "run", "--help"], stdout=subprocess.PIPE, check=False).stdout
    options = ["--memory", f"{budget}M"] if b"--memory" in help_text else []
    lab.need(memory=4000, disk=8000)
    size_mib = lab.size(1024)
    with start_bench(lab, ["--keep", "2", *options], mode="outrun", size=size_mib, threads=lab.cores) as job:
        seen, memory = [], []
        for _ in range(lab.rounds):
            seen.append(job.seen_snapshot())
            memory.append(proc_field(job.pid, "status", "RssAnon") / MIB)  # buffers stay until somebody needs the memory
    ratio = [i["pause_us"] / i["gap_us"] for i in seen]
    return [
        of_samples("outrun-pause", "pause of a job that rewrites 1 GiB without end", [ms(i["pause_us"]) for i in seen], "ms",
                   note=f"as the job sees it: {median([ms(i['gap_us']) for i in seen]):.0f} ms"),
        row("outrun-memory", f"pawl's memory at its peak, budget {budget} MiB" if options else "pawl's memory at its peak",
            max(memory), "MiB", f"<= {budget + 128}" if options else None,
            note="anonymous memory; what else pawl keeps, such as the table of known pages, comes to the budget"),
        of_samples("outrun-honest", "pause reported over pause seen", ratio, "x", ">= 0.7"),
    ]


@group("sizes", 600, long=True)
def sizes(lab):
    """The reference job at all its sizes and rates"""
    rows = []
    for mib in (256, 2048, 8192, 16384):
        for rate in (0, 32, 320):
            try:
                with reference_job(lab, mib, rate) as job:
                    warm_up(job)
                    seen = []
                    for _ in range(lab.rounds):
                        seen.append(job.seen_snapshot())
                        job.settle(3)
            except Unavailable as reason:
                rows.append(row(f"pause-{mib}-{rate}", f"pause, {mib} MiB, {rate} MiB/s", None, "ms", note=str(reason)))
                continue
            rows.append(of_samples(f"pause-{mib}-{rate}", f"pause, {mib} MiB, {rate} MiB/s", [ms(i["pause_us"]) for i in seen], "ms",
                                   note=f"as the job sees it {median([ms(i['gap_us']) for i in seen]):.1f} ms; "
                                        f"{median([i['cpu'] for i in seen]):.2f} core-s; {median([i['bytes_stored'] for i in seen]) / MIB:.1f} MiB"))
    return rows
