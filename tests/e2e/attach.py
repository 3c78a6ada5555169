"""Jobs that pawl did not start, and what doctor says of a process."""
import json
import os
import signal

import harness
from harness import STOPPED_EXIT, check, check_equal

COUNT = """
import sys, time
for i in range(100000):
    print(i, flush=True)
    time.sleep(0.01)
    if i == int(sys.argv[1]):
        sys.exit(7)
"""


def start_count(lab, last, output):
    with open(os.path.join(lab.dir, output), "wb") as out:
        return lab.launch(["/usr/bin/python3", "-c", COUNT, str(last)], stdout=out, stderr=out,
                          process_group=0)


def numbers(lab, output):
    return [int(word) for word in harness.read_bytes(os.path.join(lab.dir, output)).split()]


def attach(lab, pid, *options):
    watchdog = lab.start("attach", "-n", "job", "-i", "1h", *options, str(pid))
    lab.wait_running(watchdog)
    return watchdog


def exit_status(lab):
    """An attached job's own exit status is attach's."""
    job = start_count(lab, 400, "out")
    watchdog = attach(lab, job.pid)
    lab.snapshot()
    ended = watchdog.wait(30)
    job.wait(10)
    check(ended.status in (7, 125), f"exit {ended.status}")
    check_equal(numbers(lab, "out"), list(range(401)), "output")


def stop_recover(lab):
    job = start_count(lab, 150, "out")
    watchdog = attach(lab, job.pid)
    lab.snapshot()
    lab.pawl("stop", "job")
    check_equal(watchdog.wait(30).status, STOPPED_EXIT, "exit after stop")
    job.wait(10)
    recovered = lab.recover()
    check_equal(recovered.wait(30).status, 7, "exit of the recovered job")
    check_equal(numbers(lab, "out"), list(range(151)), "output")


def lives_on(lab):
    """It survives its watchdog, is not started twice, and is watched again under the same name."""
    job = start_count(lab, 400, "out")
    watchdog = attach(lab, job.pid)
    lab.snapshot()
    os.kill(watchdog.pid, signal.SIGKILL)
    watchdog.wait(10)
    check(job.alive(), "the job has died with its watchdog")
    refused = lab.pawl("recover", "job", status=None)
    check(refused.status == 125 and b"still runs" in refused.err, f"recover: {refused.err!r}")
    watchdog = attach(lab, job.pid)
    second = lab.snapshot()
    check_equal(second["seq"], 2, "number of the snapshot after attaching again")
    lab.pawl("stop", "job")
    watchdog.wait(30)
    job.wait(10)
    recovered = lab.recover()
    check_equal(recovered.wait(30).status, 7, "exit of the recovered job")
    check_equal(numbers(lab, "out"), list(range(401)), "output")


def let_go(lab):
    job = start_count(lab, 200, "out")
    watchdog = attach(lab, job.pid)
    os.kill(watchdog.pid, signal.SIGQUIT)
    check_equal(watchdog.wait(10).status, 0, "exit after SIGQUIT")
    check(job.alive(), "the job has ended")
    os.kill(job.pid, signal.SIGKILL)
    job.wait(10)


def refused(lab, pid, reason, *options):
    result = lab.pawl("attach", *options, str(pid), status=None)
    check(result.status in (2, 125) and reason in result.err, f"attach {pid}: {result.err!r}")


def errors(lab):
    """The error names what forbids it."""
    job = start_count(lab, 10000, "out")
    watchdog = attach(lab, job.pid)
    refused(lab, job.pid, b"watched by another pawl", "-n", "other")
    os.kill(watchdog.pid, signal.SIGQUIT)
    watchdog.wait(10)
    refused(lab, 2 ** 22 + 1, b"there is no process")
    refused(lab, os.getpid(), b"among its descendants")
    os.kill(job.pid, signal.SIGKILL)
    job.wait(10)


def doctor(lab):
    """All that would be refused, at once, and nothing of the process is changed."""
    code = ("import os, ctypes, time; c = ctypes.CDLL(None); p = ctypes.create_string_buffer(512);"
            "a = c.syscall(425, 4, p); b = c.syscall(323, 0o2000001);"
            "print(a, b, flush=True); time.sleep(600)")
    path = os.path.join(lab.dir, "held")
    with open(path, "wb") as out:
        job = lab.launch(["/usr/bin/python3", "-c", code], stdout=out, process_group=0)
    harness.wait_until(lambda: harness.read_bytes(path).endswith(b"\n"), 10, "the descriptors are open")
    held = {int(word) for word in harness.read_bytes(path).split() if int(word) >= 0}
    result = lab.pawl("doctor", str(job.pid), "--json", status=None)
    report = json.loads(result.out)
    refused_fds = {o["fd"] for o in report["objects"] if o["state"] == "refused"}
    check_equal(refused_fds, held, "refused descriptors")
    check_equal(result.status, 1 if held else 0, "exit of doctor")
    restored = {o["fd"] for o in report["objects"] if o["state"] == "restored"}
    check({0, 1} <= restored, f"restored: {restored}")
    check(job.alive(), "the process has ended")
    os.kill(job.pid, signal.SIGKILL)
    job.wait(10)


for case in (exit_status, stop_recover, lives_on, let_go, errors, doctor):
    harness.add_case(case.__name__.replace("_", "-"), case, root=True)

if __name__ == "__main__":
    harness.main(jobs=4)
