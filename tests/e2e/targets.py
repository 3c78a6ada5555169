"""Every self-checking target through every path: what is saved comes back, and can be saved again."""
from functools import partial
import os
import subprocess
import time

import harness
from handover import Handover
from harness import STOPPED_EXIT, Skip, check, check_equal

# A line a target: "NAME [VARIANT]". Every one takes every path, as an ordinary user and as root.
TARGETS = [
    "amx",
    "attributes",
    "attributes undumpable",
    "avx512",
    "controls",
    "controls caps",
    "controls dispatch",
    "controls locked",
    "controls mdwe",
    "corners packets",
    "corners pids",
    "corners removed",
    "corners traps",
    "corners watched",
    "descriptors",
    "events",
    "files",
    "fpu",
    "inetsockets",
    "inetsockets talk",
    "inotify",
    "interrupted",
    "maps",
    "maps shared",
    "memory edges",
    "memory guard",
    "memory huge",
    "memory keys",
    "memory locked",
    "memory many",
    "memory partial",
    "memory sealed",
    "mqueue",
    "nooks",
    "pool",
    "pty",
    "rseq",
    "scale descriptors400",
    "scale pool16",
    "scale processes40",
    "scale regions3000",
    "scale threads200",
    "seccomp",
    "seccomp dropped",
    "seccomp strict",
    "share",
    "shared",
    "shm",
    "signals",
    "sleeps",
    "sleeps big",
    "sleeps epoll",
    "socketends",
    "stack",
    "sysv",
    "sysv used",
    "timers",
    "tls",
    "tree",
    "unixnames",
    "unixsockets",
    "unixsockets children",
    "vdso",
]
# As many as a big job has: with --long only.
LARGE = [
    "scale descriptors9000",
    "scale pool1024",
    "scale processes500",
    "scale regions20000",
    "scale threads2000",
]
# Those of the first that are also moved unless all are (--long): with memory that is put up ahead, and used then.
MOVES = ["fpu", "maps", "pool", "share", "signals", "sleeps big", "tls"]
# … and those that are saved without being recovered: what a snapshot could change in a job that goes on.
SAVES = ["inotify", "pool", "unixsockets"]
# Paths a target cannot take, and why: {"NAME [VARIANT]": {"PATH": "reason"}}
WITHOUT = {
    "corners pids": {"attach": "the pids of an attached job are the machine's"},
    "tree": {"attach": "orphans do not belong to an attached tree"},
    "mqueue": {"attach": "an attached job shares the machine's queues, and its own stay behind"},
    "sysv": {"attach": "an attached job shares the machine's IPC namespace: what it has not attached is not its own"},
    "shm": {"attach": "an attached job's /dev/shm is the machine's: what it has not open is not its own"},
}
if os.geteuid() != 0:
    WITHOUT["attributes undumpable"] = {"attach": "an ordinary user may not trace what is not dumpable"}


def pause(lab):
    """A moment that hits the target anywhere in its round."""
    time.sleep(lab.random.uniform(0.02, 0.25))


def kill_and_recover(lab, watchdog):
    lab.snapshot()
    pause(lab)
    lab.kill(watchdog)
    return lab.recover()


def save(lab, watchdog):
    lab.snapshot()
    return watchdog


def stop_and_recover(lab, watchdog):
    lab.pawl("stop", "job")
    check_equal(watchdog.wait(60).status, STOPPED_EXIT, "exit after pawl stop")
    lab.check_gone("after pawl stop")
    return lab.recover()


def crash_in_snapshot_and_recover(lab, watchdog):
    harness.check(lab.kill_in_snapshot(watchdog), "the target has ended")
    return lab.recover()


def move_and_recover(name, lab, watchdog):
    """Its memory is put up from one snapshot, it goes on from the next."""
    before = lab.snapshot()["seq"]
    pause(lab)
    last = lab.snapshot()["seq"]
    lab.kill(watchdog)
    handover = Handover(lab)
    check(handover.fill_ahead(before) or name not in MOVES, f"{name}: memory is put up ahead")
    watchdog = handover.recover(last)
    check(b"are born with" in watchdog.err or name not in MOVES, f"{name}: it is used")
    return watchdog


def launched(steps):
    """A path that begins with `pawl run`."""
    def run(lab, name, variant):
        running, directory = harness.start_target(lab, name, variant)
        for step in steps:
            pause(lab)
            running = step(lab, running)
            lab.wait_running(running)
        pause(lab)
        harness.end_target(lab, directory, running)
        lab.verify()
    return run


def started_without_pawl(lab, name, variant):
    """The target, its directory, and the file that it writes to."""
    refuse_yama()
    directory = lab.subdir("target")
    output = os.path.join(lab.dir, "output")
    with open(output, "wb") as out:
        bare = lab.launch(lab.target_argv(name, directory, variant), stdout=out, stderr=out,
                          process_group=0)
    harness.wait_ready(bare, directory, output)
    return bare, directory, output


def attached(lab, name, variant):
    """attach, stop, recover: the target was started without pawl, and writes to a file."""
    bare, directory, output = started_without_pawl(lab, name, variant)
    pause(lab)
    watchdog = lab.start("attach", "-n", "job", "-i", "1h", str(bare.pid))
    lab.wait_running(watchdog)
    watchdog = stop_and_recover(lab, watchdog)
    bare.wait(10)
    lab.wait_running(watchdog)
    pause(lab)
    harness.end_target(lab, directory, watchdog, output)
    lab.verify()


def looked_at(lab, name, variant):
    """A process that pawl is only asked about, by `pawl doctor PID`."""
    bare, directory, output = started_without_pawl(lab, name, variant)
    for _ in range(2):
        pause(lab)
        lab.pawl("doctor", str(bare.pid), status=None)
    harness.end_target(lab, directory, bare, output)


def refuse_yama():
    try:
        scope = int(harness.read_bytes("/proc/sys/kernel/yama/ptrace_scope"))
    except OSError:
        return
    if scope > (2 if os.geteuid() == 0 else 0):
        raise Skip(f"Yama forbids to attach (kernel.yama.ptrace_scope is {scope})")


PATHS = {
    "stop": launched([stop_and_recover]),
    "kill": launched([kill_and_recover]),
    "attach": attached,
    "twice": launched([kill_and_recover, kill_and_recover]),
}
# What a snapshot does to the job that goes on: nothing.
SAVED = launched([save, save])
CAMPAIGN = launched([kill_and_recover, crash_in_snapshot_and_recover, stop_and_recover] * 5)


def taking(path, spec, reason=None):
    def run(lab):
        if reason:
            raise Skip(reason)
        name, _, variant = spec.partition(" ")
        path(lab, name, variant)
    return run


def add_targets():
    for spec in TARGETS + LARGE:
        name = spec.replace(" ", "-")
        for path, function in PATHS.items():
            reason = WITHOUT.get(spec, {}).get(path)
            harness.add_case(f"{name}/{path}", taking(function, spec, reason), root=True,
                             long=spec in LARGE)
        harness.add_case(f"{name}/saved", taking(SAVED, spec), root=True, long=spec not in SAVES)
        harness.add_case(f"{name}/looked-at", taking(looked_at, spec), root=True, long=True)
        harness.add_case(f"{name}/moved", taking(launched([partial(move_and_recover, spec)]), spec), root=True,
                         long=spec not in MOVES)
        harness.add_case(f"{name}/repeatedly", taking(CAMPAIGN, spec), long=True)


def summary(results):
    """How many targets took which paths, and which cannot run here and why."""
    count, missing = {}, {}
    for name, outcome, text in results:
        target, _, path = name.partition("/")
        if outcome == "skipped":
            missing.setdefault(text.removeprefix("SKIP: "), []).append(name)
        else:
            count.setdefault(target, []).append(path)
    runs = sum(map(len, count.values()))
    print(f"{len(count)} of {len(TARGETS) + len(LARGE)} targets ran, {runs} times "
          f"({', '.join(PATHS)}); {sum(map(len, missing.values()))} runs cannot be made here:")
    for reason, names in sorted(missing.items()):
        print(f"  {reason}: {', '.join(names)}")


add_targets()

if __name__ == "__main__":
    harness.main(jobs=4, summary=summary)
