#!/usr/bin/python3
"""Jobs that go on on another node: two nodes are two stores here, with their own working directories
mounted over one path where the machine allows that. The replica is a directory both can see."""
import json
import os
import shutil
import signal
import time

import harness
from harness import case, check, check_equal, wait_until

# Writes a file and its output; the state is in memory.
JOB = """
import sys, time
total, data = 0, bytearray(8 << 20)
with open('numbers', 'w') as f:
    for i in range(1, int(sys.argv[1]) + 1):
        total = (total * 31 + i) % 1000003
        data[(i * 4096) % len(data)] = total % 256
        f.write(f'{i} {total}\\n')
        f.flush()
        print(i, total, sum(data[::4096]), flush=True)
        time.sleep(float(sys.argv[2]))
"""
ARGV = ["python3", "-c", JOB]


class Node:
    """A machine with a store of its own; its files are in `work`, the same path on every node."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.home = lab.subdir(name)
        self.env = {"PAWL_STORE": os.path.join(self.home, "store"), "HOME": self.home}
        self.work = lab.subdir("work")

    def start(self, *args):
        return self.lab.start(*args, cwd=self.work, env=self.env)

    def run(self, rounds, *options, job="job"):
        return self.start("run", "-n", job, "-i", "300ms", "--replicate", self.replica, *options,
                          "--", *ARGV, str(rounds), "0.03")

    @property
    def replica(self):
        place = os.path.join(self.lab.dir, "replica")
        return f"ssh://there{place}" if "PAWL_SSH" in self.lab.env else f"dir:{place}"

    def pawl(self, *args, status=0):
        return self.lab.pawl(*args, env=self.env, cwd=self.work, status=status)

    def json(self, *args):
        return json.loads(self.pawl(*args, "--json").out)

    def durable(self, seq=None):
        """Numbers of the snapshots that are at the replica, as this node knows."""
        result = self.pawl("list", "job", "--json", status=None)
        entries = json.loads(result.out) if result.status == 0 else []
        return [e["seq"] for e in entries if self.replica in e["durable"]]

    def wait_durable(self, n, watchdog):
        def state():
            check(watchdog.alive(), f"pawl has ended: {watchdog.describe() if not watchdog.alive() else ''}")
            return len(self.durable()) >= n
        wait_until(state, 30, f"{n} snapshots are at the replica")

    def lose(self, watchdog):
        """SIGKILL to everything, and all that was stored there is gone."""
        self.lab.kill(watchdog)
        shutil.rmtree(self.home)
        for name in os.listdir(self.work):
            os.unlink(os.path.join(self.work, name))


def expected(lab, rounds):
    bare = lab.subdir("bare")
    result = lab.bare([*ARGV, str(rounds), "0"], cwd=bare)
    return result.out, harness.read_bytes(os.path.join(bare, "numbers"))


def check_result(node, out, numbers):
    check_equal(node.pawl("log", "job").out, out, "log")
    check_equal(harness.read_bytes(os.path.join(node.work, "numbers")), numbers, "the job's file")


def goes_on_elsewhere(lab, go_on, rounds=250):
    out, numbers = expected(lab, rounds)
    first, second = Node(lab, "first"), Node(lab, "second")
    watchdog = first.run(rounds)
    first.wait_durable(2, watchdog)
    first.lose(watchdog)
    result = go_on(second, rounds).wait()
    check_equal(result.status, 0, f"exit status on the second node ({result.err[-600:]!r})")
    check(out.endswith(result.out) and len(result.out) < len(out), "it started over")
    check_result(second, out, numbers)
    second.pawl("verify")


@case(root=True)
def run_elsewhere(lab):
    goes_on_elsewhere(lab, lambda node, rounds: node.run(rounds))


@case()
def recover_from(lab):
    goes_on_elsewhere(lab, lambda node, rounds: node.start("recover", "job", "--from", node.replica))


@case()
def fenced(lab):
    """The run before ends when somebody else has resumed the job; exactly one goes on to the end."""
    out, _ = expected(lab, 150)
    first, second = Node(lab, "first"), Node(lab, "second")
    watchdog = first.run(150)
    first.wait_durable(1, watchdog)
    other = second.run(150)
    result = watchdog.wait()
    check_equal(result.status, 125, f"exit status of the run that was left behind ({result.err!r})")
    check(b"goes on elsewhere" in result.err, f"it does not say why: {result.err!r}")
    check_equal(other.wait().status, 0, "exit status of the other")
    check_equal(second.pawl("log", "job").out, out, "log")


@case()
def race(lab):
    """Several that start at the same moment: one goes on."""
    first = Node(lab, "first")
    watchdog = first.run(100)
    first.wait_durable(1, watchdog)
    lab.kill(watchdog)
    nodes = [Node(lab, f"node{i}") for i in range(4)]
    results = [w.wait() for w in [n.run(100) for n in nodes]]
    check_equal(sorted(r.status for r in results), [0, 125, 125, 125],
                f"exit statuses ({[r.err[-200:] for r in results]})")


def over_ssh(run):
    def run_over_ssh(lab):
        lab.pretend_ssh()
        run(lab)
    harness.add_case(run.__name__.replace("_", "-") + "-over-ssh", run_over_ssh)


over_ssh(recover_from)
over_ssh(fenced)
over_ssh(race)


@case(disk=48)
def cut_off(lab):
    """A destination that is full, then gone: the job goes on and is saved, and what is missing follows."""
    node = Node(lab, "first")
    place = os.path.join(lab.disk, "replica")
    watchdog = node.start("run", "-n", "job", "-i", "200ms", "--keep", "3", "--replicate",
                          f"dir:{place}", "--", *ARGV, "100000", "0.03")

    def newest():
        entries = json.loads(node.pawl("list", "job", "--json", status=None).out or b"[]")
        return max((e["seq"] for e in entries if "dir:" + place in e["durable"]), default=0)

    def saved():
        return max((e["seq"] for e in node.json("list", "job")), default=0)

    wait_until(newest, 30, "a snapshot is there")
    with open(os.path.join(lab.disk, "ballast"), "wb", buffering=0) as ballast:
        for size in (1 << 20, 4096, 1):  # to the last byte
            try:
                while ballast.write(bytes(size)):
                    pass
            except OSError:
                pass
    reached = saved()
    wait_until(lambda: b"is not replicated now" in watchdog.err, 30, "pawl says that it is full")
    wait_until(lambda: saved() > reached + 3, 30, "the job is saved on")
    os.unlink(os.path.join(lab.disk, "ballast"))
    reached = saved()
    wait_until(lambda: newest() >= reached, 90, "what is missing follows")
    os.rename(place, place + ".away")
    reached = saved()
    wait_until(lambda: saved() > reached + 3, 30, "the job is saved on, the destination gone")
    os.rename(place + ".away", place)
    reached = saved()
    wait_until(lambda: newest() >= reached, 90, "what is missing follows again")
    watchdog.send(signal.SIGTERM)
    check_equal(watchdog.wait().status, 85, "exit status")
    check_equal(newest(), saved(), "the final snapshot is there too")


@case()
def by_hand(lab):
    """push and pull; a stopped job says what is where."""
    first, second = Node(lab, "first"), Node(lab, "second")
    watchdog = first.start("run", "-n", "job", "-i", "1h", "--", *ARGV, "100000", "0.03")
    wait_until(lambda: os.path.exists(os.path.join(first.work, "numbers")), 30, "it runs")
    first.pawl("stop", "job")
    watchdog.wait()
    check_equal(first.json("show", "job")["durable"], ["here"], "durable before")
    first.pawl("push", "job", first.replica)
    check_equal(first.json("show", "job@1")["durable"], ["here", first.replica], "durable after")
    second.pawl("pull", "job", first.replica)
    second.pawl("verify")
    second.pawl("pull", "other", first.replica, status=1)
    second.pawl("push", "job", "dir:relative", status=2)
    check_equal(second.json("show", "job@1")["time"], first.json("show", "job@1")["time"], "time")


@case(long=True)
def kills(lab):
    """Node after node is lost at a random moment; the last one finishes."""
    out, numbers = expected(lab, 600)
    for i in range(200):
        node = Node(lab, f"node{i}")
        watchdog = node.run(600)
        time.sleep(lab.random.uniform(0.05, 1.5))
        if not watchdog.alive():
            break
        if i % 4 == 3:
            node.lose(watchdog)
        else:
            lab.kill(watchdog)
            result = node.pawl("verify", status=None)
            check(result.status == 0 or b"there is no store" in result.err,
                  f"verify: {result.err[-300:]!r}")
    result = watchdog.wait()
    check_equal(result.status, 0, f"exit status of the last ({result.err[-600:]!r})")
    check_result(node, out, numbers)


if __name__ == "__main__":
    harness.main()
