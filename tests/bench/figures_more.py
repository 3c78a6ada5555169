"""Figures that decide something: whether tracking pays, what a lower priority brings."""
from figures import changed_gib, group, lost_seconds, ms, of_samples, row, warm_up
from measuring import median, start_bench


def tracked_cost(lab, kind):
    """Pauses and core-seconds of pawl, and CPU seconds of the job per step, with that tracker."""
    rate = max(1, 320 // lab.scale)
    with start_bench(lab, ["--keep", "2", "--tracker", kind], size=lab.size(1024), rate=rate) as job:
        job.settle(10)
        bare = job.cpu_per_step(job.output.of("ready")[0][0])
        warm_up(job)
        seen = []
        begin = job.output.lines[-1][0]
        for _ in range(lab.rounds):
            seen.append(job.seen_snapshot())
            job.settle(10)
        faults = (job.cpu_per_step(begin) - bare) * len(job.output.of("step", begin)) / lab.rounds
    return dict(pause=[ms(i["pause_us"]) for i in seen], cpu=[i["cpu"] for i in seen], faults=faults,
                gib=median([changed_gib(i) for i in seen]))


@group("tracking", 60, long=True)
def tracking(lab):
    """Tracking writes against hashing everything, 1 GiB at 320 MiB/s, a snapshot a second"""
    rows = []
    for kind, text in (("pagemap", "writes are tracked"), ("none", "everything is hashed")):
        seen = tracked_cost(lab, kind)
        rows += [
            of_samples(f"tracking-{kind}-pause", f"pause, {text}", seen["pause"], "ms"),
            of_samples(f"tracking-{kind}-cpu", f"core-seconds of pawl, {text}", seen["cpu"], "s",
                       note=f"{seen['gib']:.2f} GiB changed; the job itself: {seen['faults']:.3f} s more"),
        ]
    return rows


@group("priority", 240, long=True)
def priority(lab):
    """What a snapshot costs a job on all cores, by --nice; 32 MiB/s for 60 s"""
    size = lab.size(2048)
    lab.need(memory=3500, disk=9000)
    rows = []
    for nice in (0, 5, 10, 19):
        with start_bench(lab, ["--keep", "2", "--nice", str(nice)], mode="work", size=size, burst=240 // lab.scale,
                         threads=lab.cores, spin=max(10, lab.options.spin)) as job:
            job.settle(2)
            warm_up(job, 1)
            losses, _, cycles = lost_seconds(job, lab.rounds)
        rows.append(of_samples(f"priority-{nice}", f"seconds of the job that a snapshot costs, --nice {nice}", losses, "s",
                               note=f"its cycles take {median(cycles):.1f} s"))
    return rows


@group("sparse", 30)
def sparse(lab):
    """Bytes where few pages change all over, 2 GiB at 3 MiB/s"""
    lab.need(memory=3500, disk=5000)
    page = lab.limit("lz4page", 64)
    with start_bench(lab, size=lab.size(2048), rate=3) as job:
        warm_up(job)
        seen = []
        for _ in range(lab.rounds):
            job.settle(10)
            seen.append(job.snapshot())
    return [
        of_samples("sparse-growth", "bytes stored over compressed changed pages, 3 MiB/s",
                   [i["bytes_stored"] / (i["pages_changed"] * page) for i in seen], "x",
                   note=f"{median([i['pages_changed'] for i in seen]):.0f} pages changed"),
        row("sparse-node", "page table bytes per page changed", median(
            [(i["bytes_stored"] - i["pages_changed"] * page) / i["pages_changed"] for i in seen]), "bytes"),
    ]
