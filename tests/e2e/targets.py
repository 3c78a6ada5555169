"""Every self-checking target: saved, killed, recovered, saved and stopped, recovered, checked."""
import json
import time

import harness
from harness import Failure, Skip, STOPPED_EXIT, check_equal

TARGETS = [
    "amx", "attributes", "avx512", "files", "fpu", "maps", "rseq", "signals", "sleeps", "stack",
    "timers", "tls", "vdso", "attributes undumpable", "maps shared", "sleeps epoll",
]
# Objects of a later version: refused by name until then.
MAY_BE_REFUSED = {"sleeps epoll": b"epoll", "maps shared": b"shared"}
AS_ROOT = {"attributes", "files", "maps", "signals", "timers"}


def pause(lab):
    """A moment that hits the target anywhere in its round."""
    time.sleep(lab.random.uniform(0.05, 0.4))


def skip_if_refused(lab, spec):
    """Where a target holds what this version refuses, the refusal must name it, and the job go on."""
    result = lab.pawl("snapshot", "job", "--json", status=None)
    if result.status == 0:
        json.loads(result.out)
        return
    word = MAY_BE_REFUSED[spec]
    if word not in result.err.lower():
        raise Failure(f"refusal does not name {word}: {result.err!r}")
    if not lab.running():
        raise Failure("the job did not go on after the refusal")
    raise Skip(f"refused by name: {result.err.decode().strip()}")


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
    lab.kill_in_snapshot(watchdog)
    return lab.start("recover", "job", "-i", "1h")


def round_trip(spec, steps):
    name, _, variant = spec.partition(" ")

    def run(lab):
        running, directory = harness.start_target(lab, name, variant)
        pause(lab)
        if spec in MAY_BE_REFUSED:
            skip_if_refused(lab, spec)
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
