"""Replication over a real ssh that nothing gets through for a while, or to a disk that is full: the job goes on and is saved,
what is where is told, and what is missing follows."""
import json
import os
import signal
import time

import harness
from harness import STOPPED_EXIT, Failure, case, check, check_equal, wait_until
from sshd import local_sshd

# Tells how far it is, and how long it was ever kept from that.
JOB = """
import sys, time
longest, last, i = 0, time.monotonic(), 0
while True:
    time.sleep(0.02)
    i += 1
    now = time.monotonic()
    longest, last = max(longest, now - last), now
    print(i, longest, flush=True)
"""
SNAPSHOT = ("-i", "300ms", "--keep", "3")
WAITED_MOST = 3  # seconds, on a machine that many share


class Replicated:
    def __init__(self, lab, destination):
        self.lab, self.destination = lab, destination
        self.watchdog = lab.run("python3", "-c", JOB, options=[*SNAPSHOT, "--replicate", destination])
        wait_until(self.newest_there, 60, f"a snapshot is there: {self.watchdog.err[-300:]!r}")

    def snapshots(self):
        if not self.watchdog.alive():
            raise Failure(f"pawl has ended: {self.watchdog.describe()}")
        return json.loads(self.lab.pawl("list", "job", "--json").out)

    def newest(self):
        return max(s["seq"] for s in self.snapshots() if "here" in s["durable"])

    def newest_there(self):
        result = self.lab.pawl("list", "job", "--json", status=None)
        snapshots = json.loads(result.out) if result.status == 0 else []
        return max((s["seq"] for s in snapshots if self.destination in s["durable"]), default=0)

    def progress(self):
        """Steps, and the longest time between two."""
        line = wait_until(lambda: self.watchdog.out.rpartition(b"\n")[0].rpartition(b"\n")[2], 60, "it prints")
        return int(line.split()[0]), float(line.split()[1])

    def check_catches_up(self):
        reached = self.newest()
        wait_until(lambda: self.newest_there() >= reached, 120, "what is missing follows")

    def end(self):
        self.watchdog.send(signal.SIGTERM)
        check_equal(self.watchdog.wait().status, STOPPED_EXIT, "exit status")
        check_equal(self.newest_there(), self.snapshots_after(), "the final snapshot is there too")

    def snapshots_after(self):
        return max(s["seq"] for s in json.loads(self.lab.pawl("list", "job", "--json").out))

    def check_goes_on(self, seconds):
        """For that long, the destination out of reach."""
        steps, before = self.progress()
        saved = self.newest()
        time.sleep(seconds)
        wait_until(lambda: self.newest() > saved + 3, 60, "the job is saved on")
        steps_after, longest = self.progress()
        check(steps_after - steps > seconds / 0.02 / 4, f"{steps_after - steps} steps in {seconds} s")
        check(longest < max(before, WAITED_MOST), f"the job has waited for {longest:.1f} s")
        check(self.newest_there() < self.newest(), "what is not there is not said to be there")
        newest = self.lab.json("show", f"job@{self.newest()}")
        check_equal(newest["durable"], ["here"], "where the newest is, as show says")


def cut_off(lab, seconds):
    server = local_sshd(lab)
    job = Replicated(lab, server.url(os.path.join(lab.dir, "there")))
    server.stand_still()
    job.check_goes_on(seconds)
    server.stand_still(False)
    job.check_catches_up()
    job.end()
    lab.pawl("verify", "--store", os.path.join(lab.dir, "there"))


@case()
def cut_off_for_a_while(lab):
    cut_off(lab, 3)


@case(long=True, root=True)
def cut_off_for_a_minute(lab):
    cut_off(lab, 60)


@case()
def by_the_ssh_of_who_asks(lab):
    """The watchdog was started with an agent, say, that is gone; whoever asks for a snapshot or the end has one."""
    server = local_sshd(lab)
    there = os.path.join(lab.dir, "there")
    ours, lab.env["PAWL_SSH"] = lab.env["PAWL_SSH"], "false"
    watchdog = lab.run("python3", "-c", JOB, options=["--replicate", server.url(there), "--fresh"])
    wait_until(lambda: watchdog.out or not watchdog.alive(), 60, "it runs")
    lab.snapshot()
    lab.env["PAWL_SSH"] = ours
    lab.pawl("snapshot", "job")
    wait_until(lambda: server.url(there) in lab.json("show", "job")["durable"], 60,
               f"it is replicated: {watchdog.err[-300:]!r}")
    lab.pawl("stop", "job")
    check_equal(watchdog.wait().status, STOPPED_EXIT, "exit status")
    check(server.url(there) in lab.json("show", "job")["durable"], "the final snapshot is there")
    lab.pawl("verify", "--store", there)


def fill(path):
    """To the last byte."""
    with open(path, "wb", buffering=0) as ballast:
        for size in (1 << 20, 4096, 1):
            try:
                while ballast.write(bytes(size)):
                    pass
            except OSError:
                pass


@case(disk=64)
def full_there(lab):
    server = local_sshd(lab)
    job = Replicated(lab, server.url(os.path.join(lab.disk, "there")))
    ballast = os.path.join(lab.disk, "ballast")
    fill(ballast)
    wait_until(lambda: b"is not replicated now" in job.watchdog.err, 60, "pawl says that it is full")
    job.check_goes_on(3)
    text = job.lab.pawl("list", "job").out
    check(b"not replicated now: " in text, f"list: {text!r}")
    os.unlink(ballast)
    job.check_catches_up()
    wait_until(lambda: b"works again" in job.watchdog.err, 10, f"it says so: {job.watchdog.err!r}")
    job.end()
    lab.pawl("verify", "--store", os.path.join(lab.disk, "there"))


if __name__ == "__main__":
    harness.main()
