"""SIGKILL at random instants to one end of a transfer: to who sends and who receives over ssh (a real sshd), to push and
pull and what serves them there, and to push and pull of a directory. After each the stores of both ends are clean, and
a repeat completes. In the end the job goes on from what has arrived.

--rounds N (default: half of the ways, once; with --long 200).
"""
import os
import shutil
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness
from harness import Failure, case, check_equal
from sshd import command_line, local_sshd

ARGV = ("64", "6", "100")


class Campaign:
    """Three stores: the job's, one that it is sent to ("there"), one that fetches it; and a directory."""

    def __init__(self, lab, rounds):
        self.lab, self.rounds, self.hits = lab, rounds, 0
        self.sshd = local_sshd(lab)
        self.there, self.fetched, self.folder = (os.path.join(lab.dir, n) for n in ("there", "fetched", "replica"))
        self.took = {}  # seconds, by way
        # all that is stored is read after each kill
        self.watchdog = lab.run(lab.target("pagejob"), *ARGV, "100000", options=("--keep", "4"))
        lab.wait_running(self.watchdog)

    # ---- ways: each starts a transfer and gives the processes whose ends are waited for --------

    def send(self):
        ours, theirs = socket.socketpair()
        argv = [*self.sshd.client.split(), "-p", str(self.sshd.port), self.sshd.host(),
                f"{self.lab.options.pawl} receive --negotiate --store {self.there}"]
        ssh = self.lab.launch(argv, stdin=theirs, stdout=theirs)
        sender = self.lab.start("send", "--negotiate", "job", stdin=ours, stdout=ours)
        ours.close()
        theirs.close()
        return sender, ssh

    def push(self):
        return (self.lab.start("push", "job", self.sshd.url(self.there)),)

    def pull(self):
        return (self.lab.start("pull", "job", self.sshd.url(self.there), "--store", self.fetched),)

    def push_dir(self):
        return (self.lab.start("push", "job", f"dir:{self.folder}"),)

    def pull_dir(self):
        return (self.lab.start("pull", "job", f"dir:{self.folder}", "--store", self.fetched),)

    WAYS = (("send", "here"), ("push", "there"), ("pull", "here"), ("push_dir", "here"),
            ("send", "there"), ("push", "here"), ("pull", "there"), ("pull_dir", "here"))

    # ---- rounds ------------------------------------------------------------------------------

    def complete(self, way):
        start = time.monotonic()
        results = [running.wait() for running in getattr(self, way)()]
        check_equal([r.status for r in results], [0] * len(results), f"{way}: {[r.err[-400:] for r in results]}; exits")
        self.took[way] = max(self.took.get(way, 0), time.monotonic() - start)

    def kill_there(self):
        """What works on the other store, if it has begun already."""
        victims = [pid for pid in self.lab.processes() if f"--store\0{self.there}".encode() in command_line(pid)
                   and b"\0receive\0" in command_line(pid)]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return victims

    def prepare(self, number, way):
        """Something to transfer; in turns to where nothing of the job is yet."""
        if number // len(self.WAYS) % 3 == 0:
            targets = {"send": [self.there], "push": [self.there], "push_dir": [self.folder]}
            for path in targets.get(way, [self.fetched]):
                shutil.rmtree(path, ignore_errors=True)
        self.lab.snapshot(seconds=120)
        if way in ("pull", "pull_dir"):
            self.complete("push" if way == "pull" else "push_dir")

    def kill(self, way, victim):
        processes = getattr(self, way)()
        time.sleep(self.lab.random.uniform(0, 1.1 * self.took.get(way, 0.5)))
        if victim == "there":
            hit = bool(self.kill_there())
        else:
            hit = processes[0].alive()
            processes[0].send(signal.SIGKILL)
        for running in processes:
            running.wait()
        self.hits += hit

    def verify(self):
        self.lab.verify()
        for store in (self.there, self.fetched):
            if os.path.exists(os.path.join(store, "data.mdb")):
                self.lab.verify("--store", store)

    def verify_folder(self):
        """A directory is checked by reading all that the newest snapshot there needs."""
        path = os.path.join(self.lab.dir, "checked")
        self.lab.pawl("pull", "job", f"dir:{self.folder}", "--store", path)
        self.lab.verify("--store", path)
        shutil.rmtree(path)

    def round(self, number):
        way, victim = self.WAYS[number % len(self.WAYS)]
        self.prepare(number, way)
        self.kill(way, victim)
        self.verify()
        self.complete(way)
        self.verify()
        if way == "push_dir":
            self.verify_folder()

    def go_on_there(self):
        """The job as it was sent last, to its end."""
        self.lab.pawl("stop", "job")
        self.watchdog.wait()
        self.complete("push")
        self.lab.pawl("verify", "--trial", "job", "--store", self.there)

    def run(self):
        for number in range(self.rounds):
            try:
                self.round(number)
            except Failure as reason:
                raise Failure(f"round {number}, {self.WAYS[number % len(self.WAYS)]}: {reason}") from None
        self.go_on_there()
        print(f"     {self.rounds} kills, {self.hits} of them in the midst of a transfer", flush=True)


@case()
def transfers_killed(lab):
    rounds = lab.options.rounds or (200 if lab.options.long else len(Campaign.WAYS) // 2)
    Campaign(lab, rounds).run()


if __name__ == "__main__":
    harness.main()
