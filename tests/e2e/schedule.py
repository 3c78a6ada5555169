"""The interval that pawl chooses itself, and its metrics."""
import os
import re
import signal

import harness
from harness import case, check, check_equal, read_bytes, wait_until

METRIC = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"^({METRIC})\{{((?:{LABEL})(?:,{LABEL})*)\}} (\S+)$")
AUTO = ["-i", "auto", "--mtbf", "1s", "--min-interval", "400ms", "--max-interval", "2s"]


def parse_metrics(text):
    """What `promtool check metrics` looks at: every sample has HELP and TYPE before it, once, counters end with
    _total, no sample comes twice, values are numbers, the last line ends. Returns {name: (labels, value)}."""
    check(text.endswith("\n"), "no newline at the end")
    helped, typed, found = set(), {}, {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            check(name not in helped and len(line.split()) > 3, f"HELP of {name}")
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            check(name not in typed and kind in ("counter", "gauge"), f"TYPE of {name}")
            typed[name] = kind
        else:
            sample = SAMPLE.match(line)
            check(sample, f"not a sample: {line!r}")
            name, labels, value = sample.groups()
            check(name in helped and name in typed, f"{name} has no HELP or TYPE before it")
            check((typed[name] == "counter") == name.endswith("_total"), f"{name} is a {typed[name]}")
            check(name not in found, f"{name} comes twice")
            found[name] = (labels, float(value))
    check(set(typed) == set(found), f"without a sample: {set(typed) - set(found)}")
    return found


def metrics(lab, path):
    """{name without pawl_: value} as the file has it now; None while there is no file."""
    if not os.path.exists(path):
        return None
    found = parse_metrics(read_bytes(path).decode())
    for name, (labels, _) in found.items():
        check(name.startswith("pawl_"), f"{name} is not ours")
        check_equal(labels, f'job="job",store="{lab.store}"', f"labels of {name}")
    return {name.removeprefix("pawl_"): value for name, (_, value) in found.items()}


def interval(lab):
    return (lab.job() or {}).get("interval")


@case(root=True)
def auto_interval_and_metrics(lab):
    folder = lab.subdir("textfile")
    path = os.path.join(folder, "job.prom")
    watchdog = lab.start("run", "-n", "job", *AUTO, "--retries", "1", "--metrics", "textfile/job.prom", "--",
                         lab.target("target-counter"), "3000", "20", cwd=lab.dir)
    wait_until(lambda: (metrics(lab, path) or {}).get("snapshots_total", 0) >= 2, 60, "two snapshots by themselves")
    seen, chosen = metrics(lab, path), interval(lab)
    for name in ("last_snapshot_pause_seconds", "last_snapshot_wall_seconds", "snapshot_cost_seconds",
                 "last_snapshot_stored_bytes", "last_snapshot_resident_pages", "last_snapshot_timestamp_seconds"):
        check(seen[name] > 0, f"{name} is {seen[name]}")
    check_equal((seen["job_running"], seen["mtbf_seconds"], seen["restarts_total"]), (1, 1, 0), "state")
    check(0.4 <= seen["snapshot_interval_seconds"] <= 2, f"interval: {seen['snapshot_interval_seconds']}")
    check(chosen["reason"] in ("best", "floor", "ceiling") and chosen["cost_measured"], f"list: {chosen}")
    check("failures are 1.0 s apart" in chosen["text"], f"list: {chosen}")
    check(b"interval: " in lab.pawl("list", "job").out, "no interval in 'pawl list job'")
    check_equal(os.listdir(folder), ["job.prom"], "files beside the metrics")
    os.kill(lab.job()["pid"], signal.SIGKILL)
    wait_until(lambda: metrics(lab, path)["restarts_total"] == 1, 30, "a restart is counted")
    lab.pawl("stop", "job")
    check_equal(watchdog.wait(30).status, 85, "exit")
    last = metrics(lab, path)
    check_equal((last["job_running"], last["job_exit_status"]), (0, 85), "the last word")


@case()
def metrics_are_kept_and_not_worth_a_job(lab):
    """recover writes them again, wherever it is called; a file that cannot be written is warned of."""
    folder = lab.subdir("textfile")
    path = os.path.join(folder, "job.prom")
    watchdog = lab.run(lab.target("target-counter"), "3000", "20", options=["--metrics", path])
    wait_until(lab.running, 30, "the job runs")
    lab.snapshot()
    wait_until(lambda: metrics(lab, path)["last_snapshot_number"] == 1, 30, "the snapshot is in the metrics")
    lab.kill(watchdog)
    os.unlink(path)
    again = lab.start("recover", "job", cwd="/")
    wait_until(lambda: (metrics(lab, path) or {}).get("restarts_total") == 1, 30, "metrics after recover")
    lab.kill(again)
    os.unlink(path)
    os.rmdir(folder)
    again = lab.start("recover", "job")
    wait_until(lambda: b"cannot write metrics" in again.err, 30, "a warning")
    check(again.alive(), "the job was given up for its metrics")
    # It is warned of while the job is still being rebuilt.
    wait_until(lambda: interval(lab), 30, "the job runs")
    check_equal(interval(lab)["reason"], "fixed", "reason")


@case()
def least_of_everything(lab):
    """Little memory, low priority, a low rate: slower, and just as good."""
    job = [lab.target("pagejob"), "64", "4"]
    expected = lab.bare([*job, "0", "800", "2"]).out
    watchdog = lab.run(*job, "20", "800", "2", options=["--memory", "1M", "--nice", "10", "--max-rate", "200M"])
    wait_until(lambda: b"step 3 " in watchdog.out, 30, f"the job runs: {watchdog.err!r}")
    for _ in range(2):
        lab.snapshot()
    lab.kill(watchdog)
    lab.pawl("recover", "job")
    check_equal(lab.log(), expected, "log")


if __name__ == "__main__":
    harness.main()
