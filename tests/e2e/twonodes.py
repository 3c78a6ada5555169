"""Two nodes on one machine, joined by a cable: each has its own network, and its own /home and /tmp. The second lacks what
the jobs run, or has something else there. The first is lost, or cut off, or hands its job over. Needs root."""
import array
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import time

import harness
from harness import STOPPED_EXIT, Skip, add_case, check, check_equal, read_bytes, wait_until, write_bytes
from sshd import Sshd

# What is on the host at lab.dir/NAME is on every node at PLACE (NAME).
COMMON = "/srv"

# Its state is in numpy's arrays; it reads an input at its beginning, and writes a file and its output.
NUMPY_JOB = """
import os, sys, time, hashlib, numpy
data = numpy.fromfile('input').reshape(64, 64)
state = numpy.eye(64)
with open('numpy.result', 'w') as f:
    for i in range(int(sys.argv[1])):
        state = numpy.tanh(state @ data) + numpy.eye(64)
        line = f'{i} {hashlib.sha256(state.tobytes()).hexdigest()}'
        print(line, flush=True)
        f.write(line + '\\n')
        f.flush()
        time.sleep(0 if os.path.exists('hurry') else 0.05)
"""

# Workers that get numbers by pipes and answer by one.
TREE_JOB = """
import os, sys, time
back, answer = os.pipe()
pipes = []
for w in range(3):
    r, to = os.pipe()
    if os.fork() == 0:
        os.close(to)
        total = w
        for line in os.fdopen(r):
            total = (total * 31 + int(line)) % 1000003
            os.write(answer, b'%d %d\\n' % (w, total))
        os._exit(0)
    pipes.append(to)
answers = os.fdopen(back)
with open('tree.result', 'w') as f:
    for i in range(int(sys.argv[1])):
        os.write(pipes[i % 3], b'%d\\n' % i)
        line = answers.readline()
        print(line, end='', flush=True)
        f.write(line)
        f.flush()
        time.sleep(0 if os.path.exists('hurry') else 0.05)
for to in pipes:
    os.close(to)
"""

JOBS = {"numpy": NUMPY_JOB, "tree": TREE_JOB}
ROUNDS = "2000"  # two minutes, but where there is a file `hurry`


def argv(job, rounds=ROUNDS):
    return ["/usr/bin/python3", "-c", JOBS[job], rounds]


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Skip(f"{' '.join(command)}: {result.stderr.strip()}")


class Node:
    """A machine: network, mounts, and what runs there as `user`."""

    def __init__(self, lab, name, user):
        self.lab, self.name, self.user = lab, name, user
        setup = (f"mount --bind {lab.dir}/common {COMMON} && mount -t tmpfs -o mode=0755 {name} /home && "
                 f"mount -t tmpfs -o mode=1777 {name} /tmp && echo set up && exec sleep 1d")
        self.holder = lab.launch(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", setup])
        wait_until(lambda: self.holder.out or not self.holder.alive(), 30, f"{name} is set up")
        if not self.holder.alive():
            raise Skip(f"no namespaces: {self.holder.err!r}")
        self.namespace = os.readlink(f"/proc/{self.holder.pid}/ns/net")
        self.command("mkdir", "-m", "0700", "-p", "/home/user/work")
        self.command("chown", "-R", f"{user.pw_uid}:{user.pw_gid}", "/home/user")
        self.command("ip", "link", "set", "lo", "up")

    def command(self, *command):
        """As root."""
        run(*self.enter(), *command)

    def enter(self, user=False):
        enter = ["nsenter", "-t", str(self.holder.pid), "--net", "--mount"]
        if user and self.user.pw_uid:
            enter += ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups"]
        return enter

    def start(self, *command, folder="/home/user/work"):
        env = dict(self.lab.env, HOME="/home/user", PAWL_STORE="/home/user/store", PAWL_REMOTE=f"{COMMON}/pawl",
                   USER=self.user.pw_name)
        shell = ["sh", "-c", 'cd "$0" && exec "$@"', folder]
        self.lab.started.append(harness.Running([*self.enter(user=True), *shell, *command], env=env, cwd="/"))
        return self.lab.started[-1]

    def pawl(self, *args, status=0):
        result = self.start(f"{COMMON}/pawl", *args).wait()
        if status is not None:
            check_equal(result.status, status, f"{self.name}: pawl {args}: {result.err[-500:]!r}; exit")
        return result

    def read(self, path):
        return read_bytes(f"/proc/{self.holder.pid}/root{path}")

    def write(self, path, data):
        write_bytes(f"/proc/{self.holder.pid}/root{path}", data)

    def processes(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if self.namespace == os.readlink(f"/proc/{pid}/ns/net"):
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def lose(self):
        """SIGKILL to everything; with its last process its mounts are gone, and its end of the cable."""
        while pids := self.processes():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            self.holder.process.poll()
            time.sleep(0.01)

    def install_otherwise(self):
        """Another python3, no modules, none of the libraries that numpy needs; and no /home of the first."""
        libraries = "/usr/lib/x86_64-linux-gnu"
        script = ('for p in /usr/bin/python3.[0-9]*; do mount --bind /bin/false "$p"; done; '
                  'for d in /usr/lib/python3*; do mount -t tmpfs none "$d"; done; '
                  f'for l in {libraries}/blas {libraries}/lapack {libraries}/openblas*; do '
                  'if [ -d "$l" ]; then mount -t tmpfs none "$l"; fi; done; '
                  f'for l in {libraries}/libgfortran.so.* {libraries}/libexpat.so.1; do '
                  'if [ -f "$l" ]; then mount --bind /bin/true "$l"; fi; done')
        self.command("sh", "-c", script)


class Pair:
    def __init__(self, lab, user):
        if os.geteuid() != 0:
            raise Skip("needs root")
        for program in ("ip", "nsenter"):
            harness.need(program)
        self.lab = lab
        self.user = pwd.getpwuid(0) if user == "root" else harness.ordinary_user()
        self.sshd = Sshd(lab, "10.87.65.2", 2222)
        self.fill_common()
        self.first, self.second = Node(lab, "first", self.user), Node(lab, "second", self.user)
        self.join()
        self.sshd.start(self.second.enter(user=True))
        self.expected = {job: self.bare(job) for job in JOBS}

    def fill_common(self):
        common = self.lab.subdir("common")
        shutil.copy(self.lab.options.pawl, f"{common}/pawl")
        self.sshd.folder = self.lab.subdir("common/sshd")
        self.sshd.user = self.user.pw_name
        self.sshd.write_files(f"{COMMON}/sshd")
        self.lab.env["PAWL_SSH"] = self.sshd.client
        self.lab.subdir("common/replica")
        for path, _, names in os.walk(common):
            for name in (".", *names):
                os.chown(os.path.join(path, name), self.user.pw_uid, self.user.pw_gid)
        os.chmod(self.lab.dir, 0o755)
        os.chmod(f"{common}/replica", 0o700)

    def join(self):
        """The cable: an end in each node."""
        first, second = str(self.first.holder.pid), str(self.second.holder.pid)
        run("ip", "link", "add", "pawl0", "netns", first, "type", "veth", "peer", "name", "pawl0", "netns", second)
        for node, address in ((self.first, "10.87.65.1"), (self.second, "10.87.65.2")):
            node.command("ip", "addr", "add", f"{address}/30", "dev", "pawl0")
            node.command("ip", "link", "set", "pawl0", "up")
        # That it keeps when the other end is gone.
        self.second.command("ip", "addr", "add", "10.87.65.2/32", "dev", "lo")

    def destination(self, kind):
        return self.sshd.url("/home/user/replica") if kind == "ssh" else f"dir:{COMMON}/replica"

    def bare(self, job):
        """What it prints and writes when nothing happens to it."""
        self.first.write("/home/user/work/input", numbers())
        self.first.command("chmod", "0644", "/home/user/work/input")
        self.first.write("/home/user/work/hurry", b"")
        result = self.first.start(*argv(job)).wait()
        self.first.command("rm", "/home/user/work/hurry")
        check_equal(result.status, 0, f"bare run of {job}: {result.err[-300:]!r}; exit")
        return result.out, self.first.read(f"/home/user/work/{job}.result")

    def check_result(self, job):
        out, result = self.expected[job]
        check_equal(self.second.pawl("log", job).out, out, f"log of {job}")
        check_equal(self.second.read(f"/home/user/work/{job}.result"), result, f"{job}'s file")


def numbers():
    generator = random.Random(5)
    return array.array("d", [generator.uniform(-1, 1) for _ in range(64 * 64)]).tobytes()


# ---- cases ---------------------------------------------------------------------------------------


class Replicated:
    """Both jobs on the first node, which is told to keep them at `destination` too."""

    def __init__(self, pair, destination, rounds=ROUNDS):
        self.pair, self.destination, self.rounds = pair, destination, rounds
        self.watchdogs = {job: self.run_on(pair.first, job) for job in JOBS}
        for job, watchdog in self.watchdogs.items():
            wait_until(lambda: watchdog.out or not watchdog.alive(), 60, f"{job} has all that it needs of this node")
            reached = self.newest(job, "here")
            # The one after that may have begun already.
            wait_until(lambda: self.newest(job, self.destination) > reached + 1 or not watchdog.alive(), 60,
                       f"a later snapshot of {job} is there")
            check(watchdog.alive(), f"{job} has ended: {watchdog.err[-500:]!r}")

    def run_on(self, node, job):
        return node.start(f"{COMMON}/pawl", "run", "-n", job, "-i", "1s", "--replicate",
                          self.destination, "--", *argv(job, self.rounds))

    def snapshots(self, job):
        listed = self.pair.first.pawl("list", job, "--json", status=None)
        return json.loads(listed.out) if listed.status == 0 else []

    def newest(self, job, place):
        return max((s["seq"] for s in self.snapshots(job) if place in s["durable"]), default=0)


def lost(destination, user):
    """The first node is lost; the second goes on by the same command, or by `recover --from`, without what the jobs run."""
    def run_case(lab):
        pair = Pair(lab, user)
        jobs = Replicated(pair, pair.destination(destination))
        pair.first.lose()
        pair.second.install_otherwise()
        pair.second.write("/home/user/work/input", b"something else")
        pair.second.write("/home/user/work/hurry", b"")
        left_over = pair.second.start("/usr/bin/python3", "-c", "print(1)").wait()
        check(left_over.status != 0, "python3 is another one on the second node")
        ends = {"numpy": jobs.run_on(pair.second, "numpy"),
                "tree": pair.second.start(f"{COMMON}/pawl", "recover", "tree", "--from", jobs.destination)}
        for job, end in ends.items():
            check_equal(end.wait().status, 0, f"{job} on the second node: {end.err[:1000]!r}; exit")
            check(len(end.out) < len(pair.expected[job][0]), f"{job} started over")
            pair.check_result(job)
        pair.second.pawl("verify")
    return run_case


def handed_over(user):
    """The job changes nodes while it runs."""
    def run_case(lab):
        pair = Pair(lab, user)
        jobs = {job: pair.first.start(f"{COMMON}/pawl", "run", "-n", job, "-i", "1h", "--", *argv(job)) for job in JOBS}
        pair.second.install_otherwise()
        pair.second.write("/home/user/work/hurry", b"")
        for job, watchdog in jobs.items():
            wait_until(lambda: watchdog.out.count(b"\n") > 20, 60, f"{job} runs: {watchdog.err[-300:]!r}")
            pair.first.pawl("migrate", job, pair.sshd.url("/home/user/store"))
            check_equal(watchdog.wait().status, STOPPED_EXIT, "exit")
        pair.first.lose()
        for job in JOBS:
            wait_until(lambda: b'"finished"' in pair.second.pawl("list", "--json").out, 120, f"{job} ends there")
            wait_until(lambda: b'"running"' not in pair.second.pawl("list", "--json").out, 120, f"{job} ends there")
            pair.check_result(job)
    return run_case


def cable_cut(lab):
    """For a minute, and nobody is told that nothing gets through."""
    pair = Pair(lab, "user")
    jobs = Replicated(pair, pair.destination("ssh"), "6000")
    watchdog = jobs.watchdogs["tree"]
    pair.first.command("ip", "link", "set", "pawl0", "down")
    steps = watchdog.out.count(b"\n")
    time.sleep(60)
    check(watchdog.out.count(b"\n") > steps + 300, "the job goes on")
    reached = jobs.newest("tree", "here")
    check(jobs.newest("tree", jobs.destination) < reached, "what is not there is not said to be there")
    pair.first.command("ip", "link", "set", "pawl0", "up")
    wait_until(lambda: jobs.newest("tree", jobs.destination) >= reached, 240, "what is missing follows")
    pair.first.pawl("stop", "tree")
    check_equal(watchdog.wait().status, STOPPED_EXIT, f"{watchdog.err[-300:]!r}; exit")
    check_equal(jobs.newest("tree", jobs.destination), jobs.newest("tree", "here"), "the last is there")


for chosen, who, slow in (("ssh", "user", False), ("dir", "user", False), ("ssh", "root", True), ("dir", "root", True)):
    add_case(f"lost-{chosen}-{who}", lost(chosen, who), root=True, long=slow)
for who in ("user", "root"):
    add_case(f"handed-over-{who}", handed_over(who), root=True, long=who == "root")

add_case("cable-cut", cable_cut, root=True, long=True)

if __name__ == "__main__":
    harness.main()
