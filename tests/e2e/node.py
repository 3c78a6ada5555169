"""Snapshots and jobs that go to another store, as to another machine: sent, received, moved, cut off.

ssh is a script that runs the other end here; where sshd is installed, the real one on a loopback port too.
"""
import json
import os
import shutil
import signal
import sys
import time

import harness
from harness import STOPPED_EXIT, case, check, check_equal, wait_until, write_bytes
from othernode import STEPS, Nodes
from sshd import local_sshd

@case(root=True)
def received_from_a_file(lab):
    nodes = Nodes(lab)
    watchdog = nodes.run()
    lab.snapshot()
    time.sleep(0.3)
    lab.pawl("stop", "job")
    check_equal(watchdog.wait(60).status, STOPPED_EXIT, "exit")
    files = [os.path.join(lab.dir, name) for name in ("first", "second")]
    lab.pawl("send", "job@1", "-o", files[0])
    lab.pawl("send", "--base", "1", "job@2", "-o", files[1])
    nodes.pawl("receive", files[1], status=1)
    nodes.pawl("receive", files[0])
    nodes.pawl("receive", files[1])
    nodes.pawl("verify")
    nodes.pawl("recover", "job")
    check_equal(nodes.pawl("log", "job").out, nodes.expected(), "log")
    # It went on there: what is older than that does not come any more.
    result = nodes.pawl("receive", "-n", "other", files[0])
    check(b"other@1" in result.out, f"{result.out!r}")


@case(root=True)
def migrated(lab):
    nodes = Nodes(lab)
    watchdog = nodes.run()
    result = lab.pawl("migrate", "job", nodes.address)
    check(b"goes on at" in result.out, f"{result.out!r}")
    check_equal(watchdog.wait(60).status, STOPPED_EXIT, "exit")
    refused = lab.pawl("recover", "job", status=None)
    check(b"was moved to" in refused.err, f"{refused.err!r}")
    refused = lab.pawl("push", "job", nodes.address, status=None)
    check(refused.status and b"is held by" in refused.err, f"an older run is copied over it: {refused.err!r}")
    nodes.check_ends_there()


@case()
def migrated_by_the_callers_ssh(lab):
    """Not by the one that the watchdog was started with, which may know no way by now; to a long path."""
    nodes = Nodes(lab)
    nodes.there = os.path.join(lab.dir, *3 * ["a" * 200], "there")
    os.makedirs(os.path.dirname(nodes.there))
    ours, lab.env["PAWL_SSH"] = lab.env["PAWL_SSH"], "false"
    watchdog = nodes.run()
    lab.pawl("migrate", "job", f"ssh://there{nodes.there}", status=1)
    lab.env["PAWL_SSH"] = ours
    lab.pawl("migrate", "job", f"ssh://there{nodes.there}")
    check_equal(watchdog.wait(60).status, STOPPED_EXIT, "exit")
    refused = lab.pawl("recover", "job", status=None)
    check(b"was moved to" in refused.err and nodes.there[:200].encode() in refused.err, f"{refused.err!r}")
    nodes.check_ends_there()


@case()
def migrated_while_it_is_saved(lab):
    """What is asked for during a snapshot is done after it."""
    nodes = Nodes(lab)
    watchdog = lab.run(lab.target("target-counter"), *STEPS, options=["-i", "10ms", "--before-snapshot", "sleep 0.3"])
    wait_until(lambda: b"step 3 " in watchdog.out, 60, f"the job runs: {watchdog.err[-300:]!r}")
    lab.pawl("migrate", "job", nodes.address)
    check_equal(watchdog.wait(60).status, STOPPED_EXIT, "exit")
    check(b"was moved to" in lab.pawl("recover", "job", status=None).err, "it was moved, not stopped")
    nodes.check_ends_there()


@case()
def migrated_though_it_writes_faster_than_it_is_sent(lab):
    """It is slowed down meanwhile, and goes on there with all that it has written."""
    nodes = Nodes(lab)
    program, argv = lab.target("pagejob"), ("256", "128", "20")
    watchdog = lab.run(program, *argv, "1000000", options=["-v"])
    wait_until(lambda: watchdog.out.count(b"\n") > 3, 60, f"the job runs: {watchdog.err[-300:]!r}")
    lab.pawl("migrate", "job", nodes.address, seconds=300)
    check_equal(watchdog.wait(60).status, STOPPED_EXIT, "exit")
    check(b"slowed down" in watchdog.err, f"{watchdog.err[-2000:]!r}")
    nodes.pawl("stop", "job", seconds=300)
    out = nodes.pawl("log", "job").out
    bare = lab.bare([program, *argv[:2], "0", str(out.count(b"\n"))], seconds=600).out
    check_equal(out, bare[:len(out)], "log")


@case()
def migrated_over_sshd(lab):
    nodes = Nodes(lab)
    server = local_sshd(lab)  # the watchdog uses it too
    nodes.run()
    lab.pawl("migrate", "job", server.url(nodes.there))
    nodes.check_ends_there()


@case()
def replicated_over_ssh(lab):
    """The first machine is lost with its store; the job goes on from the other one's."""
    nodes = Nodes(lab)
    steps = ("300", "20")
    watchdog = lab.run(lab.target("target-counter"), *steps,
                       options=["-i", "500ms", "--keep", "3", "--replicate", nodes.address])
    wait_until(lambda: b"job" in nodes.pawl("list", status=None).out, 60, "a snapshot is there")
    wait_until(lambda: len(nodes.pawl("list", "job", status=None).out.splitlines()) > 2, 60, "and another")
    lab.kill(watchdog)
    shutil.rmtree(lab.store)
    lab.pawl("recover", "--from", nodes.address, "job")
    check_equal(lab.log(), nodes.expected(steps), "log")
    nodes.pawl("verify")
    lab.verify()


# ---- kills ---------------------------------------------------------------------------------------


def migration_killed(lab, times):
    """The other machine dies at a random instant of the migration: the job goes on once."""
    for _ in range(times):
        nodes = Nodes(lab)
        steps = ("250", "10")
        watchdog = nodes.run(steps)
        migration = lab.start("migrate", "job", nodes.address)
        time.sleep(lab.random.uniform(0, 0.6))
        ended = not migration.alive()
        if not ended:
            nodes.kill_there()
        moved = migration.wait(120).status == 0
        if moved:
            watchdog.wait(60)
            check(not lab.running(), "it does not run here too")
            if not ended and not nodes.runs_there():
                nodes.pawl("recover", "job")
            nodes.check_ends_there(steps)
        else:
            check(not nodes.runs_there(), "it does not run there too")
            check_equal(watchdog.wait(120).status, 0, f"{migration.err[-300:]!r} {watchdog.err[-300:]!r}; exit")
            check_equal(lab.log(), nodes.expected(steps), "log")
            there = nodes.pawl("verify", status=None)  # it may have died before its store was made
            check(there.status == 0 or b"there is no store" in there.err, f"verify there: {there.err!r}")
        lab.check_gone("at the end")
        lab.pawl("verify")
        for path in (lab.store, nodes.there):
            shutil.rmtree(path, ignore_errors=True)


def transfers_killed(lab, times):
    """Sender or receiver is killed at a random instant; the next transfer completes, both ends are clean."""
    nodes = Nodes(lab)
    watchdog = lab.run(lab.target("pagejob"), "64", "2", "50", "100000")
    lab.wait_running(watchdog)
    for i in range(times):
        if i % 4 == 0:
            lab.snapshot(seconds=120)
        sender, receiver = nodes.transfer()
        time.sleep(lab.random.uniform(0, 0.5))
        victim = lab.random.choice((sender, receiver))
        if victim.alive():
            victim.send(signal.SIGKILL)
        sender.wait(120)
        receiver.wait(120)
        if i % 4 == 3:
            sender, receiver = nodes.transfer()
            check_equal((sender.wait(120).status, receiver.wait(120).status), (0, 0),
                        f"{sender.err[-300:]!r} {receiver.err[-300:]!r}; exits")
            nodes.pawl("verify")
            lab.pawl("verify")
    watchdog.send(signal.SIGKILL)
    watchdog.wait(60)


# ---- handing over: one thing fails in each window ------------------------------------------------

RELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs", "relay.py")
WINDOWS = ("start", "ready", "confirm", "done")
FAILURES = ("receive", "recover", "there", "migrate", "here", "cut")
SHORT_CUT, LONG_CUT = 2, 32  # seconds; what waits to be confirmed gives up after 30


class HandOver:
    def __init__(self, lab, window):
        self.lab, self.nodes = lab, Nodes(lab)
        self.steps = ("200", "10")
        lab.env["PAWL_SSH"] = f"{sys.executable} -B {RELAY} {window} {lab.dir}"
        self.watchdog = self.nodes.run(self.steps)
        self.migration = lab.start("migrate", "job", self.nodes.address)
        wait_until(lambda: os.path.exists(self.path("at")), 60, f"the window: {self.migration.err[-300:]!r}")

    def path(self, name):
        return os.path.join(self.lab.dir, name)

    def pids_there(self, command):
        pids = []
        for pid in self.lab.processes():
            try:
                argv = harness.read_bytes(f"/proc/{pid}/cmdline").split(b"\0")
            except OSError:
                continue
            if self.nodes.there.encode() in argv and command.encode() in argv:
                pids.append(pid)
        return pids

    def fail(self, failure, cut):
        if failure == "there":
            self.nodes.kill_there()
        elif failure in ("receive", "recover"):
            for pid in self.pids_there(failure):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # who starts the watchdog there ends by itself
        elif failure == "migrate":
            self.migration.send(signal.SIGKILL)
        elif failure == "here":
            self.watchdog.send(signal.SIGKILL)
            self.watchdog.wait(60)
        else:
            write_bytes(self.path("down"), b"")
            write_bytes(self.path("go"), b"cut")
            time.sleep(cut)
            os.unlink(self.path("down"))
        write_bytes(self.path("go.new"), b"go")
        os.rename(self.path("go.new"), self.path("go"))

    def went_there(self):
        """The far record's generation is the hand-over's commit."""
        listed = self.nodes.pawl("list", "--json", status=None)
        return listed.status == 0 and any(job["generation"] > 1 for job in json.loads(listed.out))

    def check_once(self):
        """Here or there, with the right output, and the other side does not start it."""
        status = self.watchdog.wait(120).status
        if status == STOPPED_EXIT:
            check(b"was moved to" in self.lab.pawl("recover", "job", status=None).err, "not resumed here too")
            if not self.nodes.runs_there() and not self.ended_there():
                self.nodes.pawl("recover", "job")
            self.nodes.check_ends_there(self.steps)
        elif status == 0:
            self.check_not_there()
            self.lab.pawl("push", "job", self.nodes.address)
            check_equal(self.lab.log(), self.nodes.expected(self.steps), "log")
        else:
            self.resume_after_loss()

    def ended_there(self):
        return b'"finished"' in self.nodes.pawl("list", "--json", status=None).out

    def check_not_there(self):
        check(not self.nodes.runs_there() and not self.ended_there(), "it did not run there too")

    def resume_after_loss(self):
        """The watchdog here is dead: who resumes the job is told where it is."""
        def resumed():
            result = self.lab.pawl("recover", "job", status=None)
            check(result.status == 0 or b"moved" in result.err, f"recover: {result.err!r}")
            self.moved = b"was moved to" in result.err
            return result.status == 0 or self.moved
        wait_until(resumed, 60, "it can be told where the job goes on")
        if self.moved:
            self.nodes.check_ends_there(self.steps)
        else:
            self.check_not_there()
            check_equal(self.lab.log(), self.nodes.expected(self.steps), "log")


def handed_over(window, failure, cut=SHORT_CUT):
    def run(lab):
        over = HandOver(lab, window)
        over.fail(failure, cut)
        over.check_once()
        lab.pawl("verify")
        wait_until(lambda: not over.nodes.runs_there(), 60, "nothing waits there any more")
        lab.check_gone("at the end")
    return run


def register_hand_overs():
    short = {("start", "receive"), ("ready", "recover"), ("confirm", "receive"), ("confirm", "cut"), ("done", "receive"),
             ("done", "there"), ("done", "here"), ("done", "cut"), ("confirm", "here")}
    for window in WINDOWS:
        for failure in FAILURES:
            harness.add_case(f"handed-over-{window}-{failure}", handed_over(window, failure),
                             long=(window, failure) not in short, root=failure == "receive")
        harness.add_case(f"handed-over-{window}-long-cut", handed_over(window, "cut", LONG_CUT), long=True)


@case()
def migration_killed_thrice(lab):
    migration_killed(lab, 3)


@case(long=True)
def migration_killed_20_times(lab):
    migration_killed(lab, 20)


@case()
def transfers_killed_8_times(lab):
    transfers_killed(lab, 8)


@case(long=True)
def transfers_killed_200_times(lab):
    transfers_killed(lab, 200)


register_hand_overs()

if __name__ == "__main__":
    harness.main()
