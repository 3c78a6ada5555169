"""Every self-checking target: saved, killed, recovered, saved and stopped, recovered, checked."""
import time

import harness
from harness import STOPPED_EXIT, check_equal

TARGETS = [
    "amx", "attributes", "avx512", "files", "fpu", "maps", "rseq", "signals", "sleeps", "stack",
    "timers", "tls", "vdso", "events", "attributes undumpable", "maps shared", "sleeps epoll",
]
AS_ROOT = {"attributes", "files", "maps", "signals", "timers"}


def pause(lab):
    """A moment that hits the target anywhere in its round."""
    time.sleep(lab.random.uniform(0.05, 0.4))


def kill_and_recover(lab, watchdog):
    lab.snapshot()
    pause(lab)
    lab.kill(watchdog)
    return lab.start("recover", "job", "-i", "1h")


def stop_and_recover(lab, watchdog):
    lab.pawl("stop", "job")
    check_equal(watchdog.wait(30).status, STOPPED_EXIT, "exit after pawl stop")
    lab.check_gone("after pawl stop")
    return lab.start("recover", "job", "-i", "1h")


def crash_in_snapshot_and_recover(lab, watchdog):
    harness.check(lab.kill_in_snapshot(watchdog), "the target has ended")
    return lab.start("recover", "job", "-i", "1h")


def round_trip(spec, steps):
    name, _, variant = spec.partition(" ")

    def run(lab):
        running, directory = harness.start_target(lab, name, variant)
        pause(lab)
        for step in steps:
            running = step(lab, running)
            lab.snapshot()
            pause(lab)
        harness.end_target(lab, directory, running)
        lab.verify()
    return run


def add_targets():
    quick = [kill_and_recover, stop_and_recover]
    campaign = [kill_and_recover, crash_in_snapshot_and_recover, stop_and_recover] * 5
    for spec in TARGETS:
        name = spec.replace(" ", "-")
        harness.add_case(name, round_trip(spec, quick), root=spec in AS_ROOT)
        harness.add_case(f"{name}-repeatedly", round_trip(spec, campaign), long=True)


add_targets()

if __name__ == "__main__":
    harness.main()
