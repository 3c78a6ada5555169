"""Commands to a running job, its end on request, retries, and everything a user can get wrong."""
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import threading
import time

import harness
from harness import STOPPED_EXIT, case, check, check_equal, read_bytes, wait_until, write_bytes

STEPS = ("300", "10")


def counter(lab, job="job", steps=STEPS, **more):
    watchdog = lab.run(lab.target("target-counter"), *steps, job=job, **more)
    wait_until(lambda: b"step 3 " in watchdog.out, 20, f"the job runs: {watchdog.err[-300:]!r}")
    return watchdog


def expected_output(lab):
    """What the counter prints does not depend on its pace."""
    return lab.bare([lab.target("target-counter"), STEPS[0], "0"]).out


def check_resumable(lab, seconds=60):
    """Stopped: listed so, nothing left; recover ends it with the right output."""
    lab.check_gone("after the stop")
    check_equal(lab.job()["state"], "stopped", "state")
    lab.pawl("recover", "job", seconds=seconds)
    check_equal(lab.log(), expected_output(lab), "log")
    check_equal(lab.job()["state"], "finished", "state")


@case(root=True)
def stop_command(lab):
    watchdog = counter(lab)
    lab.pawl("stop", "job")
    check_equal(watchdog.wait(20).status, STOPPED_EXIT, "exit")
    check_resumable(lab)


def stopped_by(signo):
    def run(lab):
        watchdog = counter(lab)
        watchdog.send(signo)
        check_equal(watchdog.wait(20).status, STOPPED_EXIT, "exit")
        check_resumable(lab)
    return run


harness.add_case("sigterm-saves-and-stops", stopped_by(signal.SIGTERM))
harness.add_case("sigint-saves-and-stops", stopped_by(signal.SIGINT))


@case()
def stop_exit_code(lab):
    watchdog = counter(lab, options=["--stop-exit-code", "99"])
    watchdog.send(signal.SIGTERM)
    check_equal(watchdog.wait(20).status, 99, "exit")


@case()
def second_signal_ends_at_once(lab):
    watchdog = lab.run(lab.target("pagejob"), "700", "64", "50", "1000")
    wait_until(lambda: b"step 2 " in watchdog.out, 30, "the job runs")
    watchdog.send(signal.SIGTERM)
    time.sleep(0.3)  # what comes at once counts as one: a batch system signals process and group
    watchdog.send(signal.SIGTERM)
    watchdog.wait(5)
    lab.check_gone("after the second SIGTERM")


@case()
def sigusr1_takes_a_snapshot(lab):
    watchdog = counter(lab)
    for n in (1, 2):
        watchdog.send(signal.SIGUSR1)
        wait_until(lambda: len(lab.json("list", "job")) == n, 10, f"{n} snapshots")
    check(watchdog.alive(), "SIGUSR1 ended pawl")
    check_equal(watchdog.wait(30).status, 0, "exit")


@case()
def run_again_resumes(lab):
    argv = [lab.target("target-counter"), *STEPS]
    watchdog = counter(lab)
    lab.snapshot()
    lab.kill(watchdog)
    result = lab.run(*argv).wait(60)
    check_equal(result.status, 0, "exit")
    check(b"step 1 " not in result.out, "it started over")
    check_equal(lab.log(), expected_output(lab), "log")
    again = lab.run(*argv).wait(60)
    check(again.out.startswith(b"step 1 "), "a finished job was not started anew")


@case()
def recover_goes_on_with_the_options_of_run(lab):
    watchdog = counter(lab, steps=("6000", "10"),
                       options=["-i", "700ms", "--keep", "2", "--stop-exit-code", "77"])
    wait_until(lambda: len(lab.json("list", "job")) == 2, 30, "two snapshots")
    lab.kill(watchdog)
    newest = lab.json("list", "job")[-1]["seq"]
    again = lab.start("recover", "job", "--stop-exit-code", "78")
    wait_until(lambda: lab.json("list", "job")[-1]["seq"] > newest + 1, 30,
               "periodic snapshots after recover")
    check(len(lab.json("list", "job")) <= 3, "--keep is forgotten")
    again.send(signal.SIGTERM)
    check_equal(again.wait(20).status, 78, "exit")
    lab.check_gone("after the stop")
    check_equal(lab.job()["state"], "stopped", "state")


class Keeper:
    """Traces a process: once killed it stays, for its pid namespace cannot end before we have seen its end."""

    def __init__(self, pid):
        seize = 0x4206
        self.pid = pid
        libc = ctypes.CDLL(None, use_errno=True)
        check_equal(libc.ptrace(seize, pid, None, None), 0, f"PTRACE_SEIZE ({os.strerror(ctypes.get_errno())})")

    def let_go(self):
        wait_all = 0x40000000  # __WALL
        while os.WIFSTOPPED(os.waitpid(self.pid, wait_all)[1]):
            pass


@case(root=True)
def recovery_waits_until_the_last_run_is_gone(lab):
    watchdog = counter(lab)
    lab.snapshot()
    keeper = Keeper(lab.job()["pid"])
    watchdog.send(signal.SIGKILL)
    watchdog.wait(10)
    again = lab.recover()
    wait_until(lambda: b"waiting for the processes of job job" in again.err, 20,
               f"it says what it waits for: {again.err!r}")
    time.sleep(0.3)
    check(again.alive() and not again.out, f"it runs beside the last one: {again.out!r}")
    again.send(signal.SIGTERM)
    check_equal(again.wait(10).status, -signal.SIGTERM, "end of a recovery that may not begin")
    again = lab.recover()
    keeper.let_go()
    check_equal(again.wait(60).status, 0, f"exit ({again.err[-300:]!r})")
    check_equal(lab.log(), expected_output(lab), "log")


def children_of(pid):
    return read_bytes(f"/proc/{pid}/task/{pid}/children").split()


class Held:
    """A lease on a file of ours: whoever opens it for writing waits until it is let go (fcntl(2))."""

    def __init__(self, path):
        self.file = open(path, "rb")
        fcntl.fcntl(self.file, fcntl.F_SETSIG, signal.SIGURG)  # by default it is ignored
        wait_until(self.take, 10, f"nobody has {path} open for writing")

    def take(self):
        try:
            return fcntl.fcntl(self.file, fcntl.F_SETLEASE, fcntl.F_RDLCK) == 0
        except BlockingIOError:
            return False

    def let_go(self):
        self.file.close()


def stopped_while_recovered(ask):
    """The job has not run since its last snapshot: that is what it is stopped with, and goes on from."""
    def run(lab):
        path = os.path.join(lab.dir, "output")
        with open(path, "wb") as out:
            watchdog = lab.run(lab.target("target-counter"), *STEPS, stdout=out)
        wait_until(lambda: b"step 3 " in read_bytes(path), 20, "the job runs")
        lab.snapshot()
        last = lab.snapshot()["seq"]
        lab.kill(watchdog)
        held = Held(path)
        again = lab.recover()
        entry = wait_until(lambda: next((j for j in lab.json("list") if j["state"] == "recovering"), None), 20,
                           "it is being recovered")
        check_equal(entry["pid"], None, "pid")
        seq = ask(lab, again, held)
        check_equal(again.wait(60).status, STOPPED_EXIT, f"exit ({again.err[-300:]!r})")
        check_equal(seq or last, last, "the snapshot that it is stopped with")
        lab.check_gone("after the stop")
        check_equal(lab.job()["state"], "stopped", "state")
        lab.pawl("recover", "job")
        check_equal(read_bytes(path), expected_output(lab), "output")
    return run


def by_command(lab, again, held):
    asking = lab.start("stop", "job", "--json")
    time.sleep(0.3)
    held.let_go()
    result = asking.wait()
    check_equal(result.status, 0, f"pawl stop ({result.err!r})")
    return json.loads(result.out)["seq"]


def by_sigterm(lab, again, held):
    again.send(signal.SIGTERM)
    time.sleep(0.3)
    held.let_go()


harness.add_case("stop-while-recovered", stopped_while_recovered(by_command), root=True)
harness.add_case("sigterm-while-recovered", stopped_while_recovered(by_sigterm))


def threads_saved(lab):
    """A job of 200 threads, saved and gone."""
    watchdog, directory = harness.start_target(lab, "scale", "threads200")
    lab.snapshot()
    lab.kill(watchdog)
    return directory


@case(root=True)
def stop_at_any_moment_of_a_recovery(lab):
    """Most of it goes by while its threads are made, and their first one cannot be waited for before the others."""
    directory = threads_saved(lab)
    for _ in range(8):
        again = lab.recover()
        wait_until(lambda: children_of(again.pid), 20, "its capsule is there")
        time.sleep(lab.random.uniform(0, 0.15))
        again.send(signal.SIGTERM)
        check_equal(again.wait(20).status, STOPPED_EXIT, f"exit ({again.err[-300:]!r})")
    lab.check_gone()
    harness.end_target(lab, directory, lab.recover())


@case(root=True)
def killed_at_any_moment_of_a_recovery(lab):
    """By somebody else, or for want of memory: said at once, or its own end where it ran already."""
    directory = threads_saved(lab)
    for _ in range(8):
        again = lab.start("recover", "job", "-i", "1h", "--retries", "0")
        init = wait_until(lambda: children_of(again.pid), 20, "its capsule is there")[0]
        victim = wait_until(lambda: children_of(int(init)), 20, "its process is there")[0]
        time.sleep(lab.random.uniform(0, 0.12))
        os.kill(int(victim), signal.SIGKILL)
        status = again.wait(20).status
        said = (b"was killed by signal 9", b"ended at once", b"there is no process")
        check(status == 137 or status == 125 and any(what in again.err for what in said),
              f"exit {status} ({again.err[-300:]!r})")
    lab.check_gone()
    harness.end_target(lab, directory, lab.recover())


@case()
def recovery_that_may_not_make_all_threads(lab):
    """It fails, and leaves nothing behind."""
    directory = threads_saved(lab)
    again = lab.start("recover", "job", "-i", "1h",
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (150, 150)))
    check_equal(again.wait(20).status, 125, f"exit ({again.err[-300:]!r})")
    lab.check_gone("after a recovery that has failed")
    harness.end_target(lab, directory, lab.recover())


@case()
def fresh_starts_over(lab):
    watchdog = counter(lab)
    lab.snapshot()
    lab.kill(watchdog)
    result = lab.run(lab.target("target-counter"), *STEPS, options=["--fresh"]).wait(60)
    check_equal(result.out, expected_output(lab), "output")
    check_equal(lab.log(), expected_output(lab), "log")


@case()
def crash_before_the_first_snapshot(lab):
    watchdog = counter(lab)
    lab.kill(watchdog)
    result = lab.run(lab.target("target-counter"), *STEPS).wait(60)
    check_equal(result.out, expected_output(lab), "output")


def flaky(lab, deaths, *options):
    """A job that dies of SIGSEGV at step 120, as often as told; saved every 200 ms."""
    left = os.path.join(lab.dir, "left")
    write_bytes(left, b"%d\n" % deaths)
    return lab.run(lab.target("target-flaky"), "200", "10", "120", left,
                   options=["-i", "200ms", *options]).wait(60)


@case(root=True)
def retries(lab):
    result = flaky(lab, 1, "--retries", "2")
    check_equal(result.status, 0, f"exit ({result.err[-400:]!r})")
    expected = lab.bare([lab.target("target-flaky"), "200", "0", "0", "/"])
    check_equal(lab.log(), expected.out, "log")
    check(b"SIGSEGV" in result.err or b"Segmentation" in result.err or b"signal 11" in result.err,
          f"the death is not reported: {result.err!r}")


@case()
def retries_run_out(lab):
    result = flaky(lab, 100, "--retries", "2")
    check_equal(result.status, 128 + signal.SIGSEGV, f"exit ({result.err[-400:]!r})")


@case()
def no_retries_without_the_option(lab):
    check_equal(flaky(lab, 1).status, 128 + signal.SIGSEGV, "exit")


@case()
def the_same_name_twice(lab):
    watchdog = counter(lab)
    second = lab.run(lab.target("target-counter"), *STEPS).wait(20)
    check_equal(second.status, 125, "exit of the second run")
    check(b"job" in second.err and str(watchdog.pid).encode() in second.err,
          f"the message names job and watchdog: {second.err!r}")
    recover = lab.pawl("recover", "job", status=None)
    check(recover.status not in (0, 2), "recover of a running job")
    check_equal(watchdog.wait(30).out, expected_output(lab), "output of the first")


@case(root=True)
def connected_socket_is_refused_by_name(lab):
    """The job goes on without snapshots, and is saved once the socket is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        threading.Thread(target=lambda: held.append(server.accept()), daemon=True).start()
        port = str(server.getsockname()[1])
        watchdog = lab.run(lab.target("target-tcp"), port, "200", "10")
        wait_until(lambda: b"step 5 " in watchdog.out, 20, f"the job runs: {watchdog.err!r}")
        refused = lab.pawl("snapshot", "job", status=None)
        check(refused.status not in (0, 2), "a snapshot of a connected socket succeeded")
        for word in (b"fd 3", port.encode()):
            check(word in refused.err, f"the refusal does not name {word!r}: {refused.err!r}")
        wait_until(lambda: b"step 110 " in watchdog.out, 20, "the job goes on")
        lab.snapshot()
        check_equal(watchdog.wait(30).status, 0, "exit")


RESET_JOB = """
import socket, sys, time, os
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    time.sleep(0.02)
    if os.path.exists("go"):
        break
print(s.recv(100))
try:
    s.recv(100)
except ConnectionResetError as e:
    print("reset")
"""


@case(root=True)
def connection_comes_back_reset(lab):
    """With what had arrived and was not read."""
    directory = lab.subdir("reset")
    with socket.create_server(("127.0.0.1", 0)) as server:
        watchdog = lab.run("/usr/bin/python3", "-c", "import os; os.chdir(%r)\n%s" % (directory, RESET_JOB),
                           str(server.getsockname()[1]), options=["-i", "1h", "--connections", "reset"])
        peer = server.accept()[0]
        peer.sendall(b"unread")
        wait_until(lambda: lab.pawl("snapshot", "job", status=None).status == 0, 20, "a snapshot")
        lab.kill(watchdog)
        peer.close()
    running = lab.recover()
    write_bytes(os.path.join(directory, "go"), b"")
    result = running.wait(20)
    check_equal((result.status, lab.log()), (0, b"b'unread'\nreset\n"), "exit and output")


REFUSED_MEANWHILE = """
import os, socket, sys, time
PAGES = 16384
memory = bytearray(PAGES * 4096)
def write(step, value):
    for page in range(0, PAGES, step):
        memory[page * 4096:page * 4096 + 8] = (page * 31 + value).to_bytes(8, "little")
def wait(name):
    print(name, flush=True)
    while not os.path.exists(name):
        time.sleep(0.02)
write(1, 1)
wait("filled")
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
write(7, 2)
wait("refused")
peer.close()
write(11, 3)
wait("saved")
for page in range(PAGES):
    value = 3 if page % 11 == 0 else 2 if page % 7 == 0 else 1
    assert memory[page * 4096:page * 4096 + 8] == (page * 31 + value).to_bytes(8, "little"), page
print("PASS", flush=True)
"""


@case()
def what_changed_while_snapshots_failed_is_saved_later(lab):
    """A snapshot that is refused has looked at memory and re-armed the tracker, but stored nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        threading.Thread(target=lambda: held.append(server.accept()), daemon=True).start()
        watchdog = lab.run("/usr/bin/python3", "-c", REFUSED_MEANWHILE, str(server.getsockname()[1]),
                           cwd=lab.dir)

        def go(name):
            write_bytes(os.path.join(lab.dir, name), b"")

        wait_until(lambda: b"filled" in watchdog.out, 30, "memory is filled")
        lab.snapshot()
        go("filled")
        wait_until(lambda: b"refused" in watchdog.out, 30, "it is connected")
        for _ in range(3):
            check(lab.pawl("snapshot", "job", status=None).status != 0, "a connection was saved")
        go("refused")
        wait_until(lambda: b"saved" in watchdog.out, 30, "the connection is closed")
        lab.snapshot()
        lab.kill(watchdog)
        go("saved")
        result = lab.recover().wait(60)
        check_equal((result.status, result.out), (0, b"PASS\n"), "the memory after recovery")


@case()
def unsupported_can_end_the_job(lab):
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        threading.Thread(target=lambda: held.append(server.accept()), daemon=True).start()
        port = str(server.getsockname()[1])
        result = lab.run(lab.target("target-tcp"), port, "1000", "10",
                         options=["-i", "200ms", "--on-unsupported", "fail"]).wait(20)
        check_equal(result.status, 125, "exit")
        lab.check_gone("after the refusal")


@case()
def two_jobs_one_store(lab):
    jobs = [counter(lab, job=f"j{i}") for i in range(3)]
    for _ in range(3):
        for i in range(3):
            lab.snapshot(f"j{i}")
    for job in jobs:
        job.send(signal.SIGKILL)
        job.wait(10)
    lab.check_gone()
    running = [lab.start("recover", f"j{i}") for i in range(3)]
    for i, job in enumerate(running):
        check_equal(job.wait(60).status, 0, "exit")
        check_equal(lab.log(f"j{i}"), expected_output(lab), f"log of j{i}")
    lab.verify()


@case(root=True)
def jobs_have_pids_of_their_own(lab):
    """Names that programs make of their pids do not meet in /tmp."""
    jobs = [lab.run("sh", "-c", "sleep 1 & sleep 1; echo $$ $!", job=f"job{n}") for n in range(3)]
    pids = set()
    for job in jobs:
        check_equal(job.wait(30).status, 0, f"exit ({job.err!r})")
        pids.update(map(int, job.out.split()))
    check_equal(len(pids), 6, f"different pids: {pids}")
    check(max(pids) < 32768, f"a machine may not have {pids}")


@case()
def what_json_says(lab):
    watchdog = counter(lab)
    taken = lab.snapshot()
    for key in ("job", "seq", "time", "pause_us", "wall_us", "pages_resident", "pages_candidate",
                "pages_changed", "bytes_raw", "bytes_stored", "parent", "tracker"):
        check(key in taken, f"snapshot --json has no {key}: {taken}")
        check(key in lab.json("show", "job@1"), f"show --json has no {key}")
    entry = lab.job()
    for key in ("name", "state", "pid", "snapshots", "last_snapshot"):
        check(key in entry, f"list --json has no {key}: {entry}")
    check_equal((entry["state"], entry["snapshots"], taken["seq"]), ("running", 1, 1), "values")
    check(b"target-counter" in harness.read_bytes(f"/proc/{entry['pid']}/cmdline"), "list's pid is not the job")
    text = lab.pawl("snapshot", "job").out
    check(text.startswith(b"job@2"), f"snapshot prints {text!r}")
    lab.kill(watchdog)
    check(lab.job()["state"] != "running", "a dead job is listed as running")


@case()
def stopped_recovery_for_a_debugger(lab):
    watchdog = counter(lab)
    lab.snapshot()
    lab.kill(watchdog)
    running = lab.start("recover", "job", "--stopped")
    pid = int(wait_until(lambda: running.out.split(b"\n")[0] if b"\n" in running.out else None, 15,
                         "the pid is printed").split()[-1])
    state = harness.read_bytes(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()[0]
    check(state in (b"T", b"t"), f"state {state}")
    os.kill(pid, signal.SIGCONT)
    check_equal(running.wait(30).status, 0, "exit")


@case()
def detached(lab):
    lab.pawl("run", "-d", "-n", "job", "-i", "1h", "--", lab.target("target-counter"), *STEPS)
    lab.snapshot()
    lab.pawl("stop", "job")
    check_resumable(lab)


@case()
def snapshot_hooks(lab):
    """--before-snapshot and --after-snapshot run around each one, with the job's name."""
    log = os.path.join(lab.dir, "hooks")
    watchdog = counter(lab, options=["--before-snapshot", f"echo before $PAWL_JOB >> {log}",
                                     "--after-snapshot", f"echo after $PAWL_JOB >> {log}"])
    lab.snapshot()
    wait_until(lambda: harness.read_bytes(log) == b"before job\nafter job\n", 5, "both hooks ran")
    lab.kill(watchdog)


@case()
def dry_run_creates_nothing(lab):
    watchdog = counter(lab)
    lab.snapshot()
    lab.kill(watchdog)
    result = lab.pawl("recover", "job", "--dry-run")
    check(len(result.out.splitlines()) > 5, f"the plan: {result.out!r}")
    lab.check_gone("after a dry run")
    check(lab.job()["state"] != "finished", "a dry run ran")


# ---- bad input -------------------------------------------------------------------------------

def misuse(lab, *args, status=2, words=()):
    result = lab.pawl(*args, status=None, seconds=20)
    check_equal(result.status, status, f"pawl {' '.join(args)}: exit ({result.err!r})")
    check(result.err.startswith(b"pawl"), f"pawl {' '.join(args)}: message: {result.err!r}")
    for word in words:
        check(word.encode() in result.err, f"pawl {' '.join(args)}: no {word!r} in {result.err!r}")


@case()
def bad_command_lines(lab):
    for args in (["frobnicate"], ["run"], ["run", "--no-such-option", "--", "true"], ["run", "--"],
                 ["snapshot"], ["recover"], ["recover", "a", "b"], ["list", "--nope"], ["verify", "a@x"],
                 ["recover", "a@0"], ["recover", "a@-1"], ["recover", "@3"], ["rm"],
                 ["run", "-n", "a/b", "--", "true"], ["run", "-n", "", "--", "true"],
                 ["run", "-n", "x" * 101, "--", "true"], ["run", "--compress", "gzip", "--", "true"],
                 ["run", "--keep", "-1", "--", "true"], ["run", "--retries", "many", "--", "true"]):
        misuse(lab, *args)
    for interval in ("0", "-5", "10x", "", "1e400", "s", "5 m"):
        misuse(lab, "run", "-i", interval, "--", "true", words=[interval] if interval else [])
    check(lab.pawl(status=None).status == 2, "pawl alone")


@case()
def unknown_things(lab):
    lab.pawl("run", "-n", "known", "--", "true")
    for args, word in ((["recover", "nothere"], "nothere"), (["snapshot", "nothere"], "nothere"),
                       (["stop", "nothere"], "nothere"), (["log", "nothere"], "nothere"),
                       (["show", "known@7"], "known@7"), (["rm", "nothere"], "nothere"),
                       (["rm", "known@7"], "7"), (["verify", "nothere"], "nothere")):
        result = lab.pawl(*args, status=None)
        check(result.status not in (0, 2) and word.encode() in result.err,
              f"pawl {' '.join(args)}: exit {result.status}, {result.err!r}")


@case()
def help_everywhere(lab):
    commands = ["run", "snapshot", "stop", "recover", "list", "show", "log", "verify", "rm", "gc", "doctor"]
    for args in [["--help"], *([c, "--help"] for c in commands)]:
        result = lab.pawl(*args)
        check(b"pawl" in result.out and not result.err, f"{args}: {result.out!r} {result.err!r}")
    check(b"pawl" in lab.pawl("--version").out, "--version")
    check(len(lab.pawl("doctor").out.splitlines()) >= 5, "doctor says little")


@case()
def stores_that_cannot_be_used(lab):
    run = ["run", "-n", "job", "--", "true"]
    lab.pawl(*run)
    os.chmod(lab.store, 0o777)
    misuse(lab, *run, status=125, words=[lab.store])
    misuse(lab, "verify", status=1, words=[lab.store])
    os.chmod(lab.store, 0o700)
    if os.geteuid():
        misuse(lab, "run", "--store", "/pawl-store", "--", "true", status=125, words=["/pawl-store"])
    misuse(lab, "run", "--store", "/dev/null", "--", "true", status=125, words=["/dev/null"])
    misuse(lab, "list", "--store", os.path.join(lab.dir, "nothing"), status=1, words=["nothing"])


if __name__ == "__main__":
    harness.main()
