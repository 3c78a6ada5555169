"""Where user namespaces are forbidden: no capsule, jobs of one process, a new pid."""
import argparse
import os

import harness
from harness import Skip, add_case, case, check, check_equal, STOPPED_EXIT

# Of one process, that does not remember its number.
TARGETS = ["corners packets", "corners removed", "files", "fpu", "maps", "memory many", "signals", "stack", "vdso"]

# The limit counts for all namespaces below this one: the second, in which pawl is an ordinary user again, is the last.
WRAPPER = """#!/bin/sh
exec unshare --map-root-user sh -c '
    echo 1 > /proc/sys/user/max_user_namespaces || exit 77
    exec unshare --user --map-user={uid} --map-group={gid} {pawl} "$@"' pawl "$@"
"""


def forbid_namespaces(lab):
    """From here on every pawl of this lab runs where it may make none."""
    if os.geteuid() == 0:
        raise Skip("root needs no user namespace")
    wrapper = os.path.join(lab.dir, "pawl-plain")
    with open(wrapper, "w", encoding="utf-8") as out:
        out.write(WRAPPER.format(uid=os.getuid(), gid=os.getgid(), pawl=lab.options.pawl))
    os.chmod(wrapper, 0o755)
    lab.options = argparse.Namespace(**{**vars(lab.options), "pawl": wrapper})
    told = lab.pawl("doctor", status=None)
    if told.status == 77 or b"unshare" in told.err:
        raise Skip(f"no user namespace to forbid them in: {told.err.strip()!r}")


def round_trip(spec):
    def run(lab):
        name, _, variant = spec.partition(" ")
        forbid_namespaces(lab)
        watchdog, directory = harness.start_target(lab, name, variant)
        lab.snapshot()
        lab.kill(watchdog)
        watchdog = lab.recover()
        lab.wait_running(watchdog)
        lab.snapshot()  # while it is being recovered, stopping it has nothing to save
        lab.pawl("stop", "job")
        check_equal(watchdog.wait(60).status, STOPPED_EXIT, "exit after pawl stop")
        watchdog = lab.recover()
        lab.wait_running(watchdog)
        harness.end_target(lab, directory, watchdog)
        lab.verify()
    return run


@case()
def what_a_job_may_be_without_a_capsule(lab):
    """It says what a job may be here."""
    forbid_namespaces(lab)
    watchdog = lab.run("/bin/sh", "-c", "sleep 1000; true")
    lab.wait_running(watchdog)
    result = lab.pawl("snapshot", "job", status=None)
    check(result.status != 0 and b"only jobs of one process" in result.err, f"refused by name: {result.err!r}")
    lab.kill(watchdog)
    check(b"without a capsule" in watchdog.err, f"said at the start: {watchdog.err!r}")


for target in TARGETS:
    add_case(f"plain/{target.replace(' ', '-')}", round_trip(target))

if __name__ == "__main__":
    harness.main(jobs=4)
