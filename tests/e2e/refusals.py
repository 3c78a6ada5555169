"""What cannot be saved is refused by name, the job runs on; with --on-unsupported fail it ends at once with 125."""
import os
import re

import harness
from harness import check, check_equal

# Variant of the target `refused`: what the message must say.
REFUSED = {
    "user": r"process \d+ \(\S+\): it has a (user|mount) namespace",
    "mnt": r"process \d+ \(\S+\): it has a mount namespace",
    "net": r"process \d+ \(\S+\): it has a network namespace",
    "uts": r"process \d+ \(\S+\): it has a UTS namespace",
    "ipc": r"process \d+ \(\S+\): it has an IPC namespace",
    "cgroup": r"process \d+ \(\S+\): it has a cgroup namespace",
    "pid": r"process \d+ \(\S+\): its children are to be in another pid namespace",
    "root": r"process \d+ \(\S+\): its root directory is /",
    "filter": r"process \d+ \(\S+\): it has a seccomp filter",
    "strict": r"process \d+ \(\S+\), thread \d+: it is in seccomp's strict mode",
    "traced": r"process \d+ \(\S+\) is traced by process \d+ \(\S+\)",
    "io_uring": r"process \d+ \(\S+\): fd \d+: an io_uring",
    "io_uring-mapped": r"process \d+ \(\S+\): an io_uring at 0x",
    "io_uring-thread": r"process \d+.*io_uring",
    "userfaultfd": r"process \d+ \(\S+\): fd \d+: a userfaultfd",
    "secret": r"process \d+ \(\S+\): secret memory \(memfd_secret\) at 0x",
    "secret-fd": r"process \d+ \(\S+\): fd \d+: secret memory \(memfd_secret\)",
    "aio": r"process \d+ \(\S+\): an asynchronous I/O context",
    "perf": r"process \d+ \(\S+\): fd \d+: a perf event",
    "bpf": r"process \d+ \(\S+\): fd \d+: a BPF map",
    "session-keyring": r"process \d+ \(\S+\): it has a session keyring of its own",
    "process-keyring": r"process \d+ \(\S+\): it has a process keyring",
    "mqueue": r"process \d+ \(\S+\): fd \d+: a POSIX message queue: /pawl-refused: a process is registered with mq_notify",
    "deadline": r"process \d+ \(\S+\): it has the scheduling policy SCHED_DEADLINE",
}
AS_ROOT = set(REFUSED) - {"filter", "strict"}


def refused(variant, message):
    def run(lab):
        watchdog, directory = harness.start_target(lab, "refused", variant)
        for _ in range(2):
            result = lab.pawl("snapshot", "job", status=None)
            check(result.status not in (0, 77), f"pawl snapshot: exit {result.status}")
            check(re.search(message, result.err.decode()), f"pawl snapshot said {result.err!r}")
        harness.end_target(lab, directory, watchdog)
        result = lab.pawl("list", "job", "--json")
        check(b'"seq"' not in result.out, f"a snapshot of it: {result.out[:300]!r}")
    return run


def refused_and_ended(variant, message):
    """At the first snapshot; what is seen without one may end it before it says that it is ready."""
    def run(lab):
        directory = lab.subdir("target")
        watchdog = lab.run(*lab.target_argv("refused", directory, variant),
                           options=["--on-unsupported", "fail"])
        ready = os.path.join(directory, "ready")
        harness.wait_until(lambda: os.path.exists(ready) or not watchdog.alive(), 60, "target ready")
        if watchdog.alive():
            lab.start("snapshot", "job")
        result = watchdog.wait(60)
        if result.status == harness.SKIP_EXIT:
            raise harness.Skip((result.out + result.err).decode().strip())
        check_equal(result.status, 125, "exit status")
        check(re.search(message, result.err.decode()), f"pawl run said {result.err!r}")
        lab.check_gone("after the end")
    return run


def seen_early(variant, ends):
    """Without any snapshot."""
    def run(lab):
        watchdog, directory = harness.start_target(lab, "refused", variant,
                                                   options=["--on-unsupported", "fail"] if ends else [])
        harness.wait_until(lambda: re.search(REFUSED[variant], watchdog.err.decode()), 15, "a warning")
        if ends:
            check_equal(watchdog.wait(30).status, 125, "exit status")
            lab.check_gone("after the end")
        else:
            harness.end_target(lab, directory, watchdog)
            check_equal(watchdog.err.decode().count("cannot be saved"), 1, "warnings")
    return run


for variant in ("io_uring", "userfaultfd"):
    harness.add_case(f"{variant}-early", seen_early(variant, False))
    harness.add_case(f"{variant}-early-ends", seen_early(variant, True), root=True)
for name, text in REFUSED.items():
    harness.add_case(name, refused(name, text), root=name in AS_ROOT)
    harness.add_case(f"{name}-ends", refused_and_ended(name, text), root=name in AS_ROOT)

if __name__ == "__main__":
    harness.main()
