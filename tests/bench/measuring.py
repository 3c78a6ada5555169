"""What the figures of tools/bench are measured with: a place to work in, jobs under pawl and without, the
limits of the machine, medians."""
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time

GIB = 1 << 30
MIB = 1 << 20
PAGE = 4096
PATIENCE = 600  # seconds that anything may take
RESTART = 120  # … and a restart
STANDSTILL = 0.3  # seconds that tell benchjob that it has stood still


class Unavailable(Exception):
    """A figure cannot be measured here; the text says why."""


class Broken(Exception):
    """Something that is measured does not work."""


def median(values):
    return statistics.median(values)


def wait_until(condition, what, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise Broken(f"not within {seconds} s: {what}")


def cpu_seconds(pid):
    """CPU time of a process with all its threads, also those that have ended (kernel/time/posix-cpu-timers.c)."""
    return time.clock_gettime(~pid << 3 | 2)


def proc_field(pid, file, name):
    """A number from /proc/PID/status (in bytes) or /proc/PID/io; None where it may not be read."""
    try:
        with open(f"/proc/{pid}/{file}") as f:
            found = re.search(rf"^{name}:\s*(\d+)( kB)?$", f.read(), re.M)
    except OSError:
        return None
    return int(found[1]) * (1024 if found[2] else 1) if found else None


def device_written(path):
    """Bytes that the block device below has been given since it is there (Documentation/block/stat.rst); None where it does
    not tell. Those of everybody: write_bytes of /proc/PID/io counts a folio of 2 MiB for a page written in it."""
    number = os.stat(path).st_dev
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat") as f:
            return int(f.read().split()[6]) * 512
    except OSError:
        return None


def memory_available():
    with open("/proc/meminfo") as f:
        return int(re.search(r"MemAvailable:\s*(\d+)", f.read())[1]) * 1024


class Lab:
    """A directory, an ordinary user where we are root, and how much is to be done."""

    def __init__(self, options):
        self.options = options
        self.rounds = options.rounds
        self.scale = options.scale  # sizes are divided by it
        self.cores = len(os.sched_getaffinity(0))
        self.dir = tempfile.mkdtemp(prefix="pawl-bench-", dir=options.dir)
        self.user = options.user if os.getuid() == 0 else None
        self.bin = os.path.join(self.dir, "bin")
        self.numbers = iter(range(1, 1 << 30))
        self.children = []
        os.chmod(self.dir, 0o755)
        os.mkdir(self.bin)
        for name, path in options.binaries.items():
            shutil.copy(path, os.path.join(self.bin, name))
            os.chmod(os.path.join(self.bin, name), 0o755)

    def close(self):
        for child in list(self.children):
            child.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def binary(self, name):
        return os.path.join(self.bin, name)

    def size(self, mib):
        return max(8, mib // self.scale)

    def subdir(self):
        path = os.path.join(self.dir, f"d{next(self.numbers)}")
        os.mkdir(path)
        if self.user:
            shutil.chown(path, self.user, self.user)
        return path

    def as_user(self):
        """How Popen becomes the ordinary user."""
        return dict(user=self.user, group=self.user, extra_groups=[]) if self.user else {}

    def need(self, memory=0, disk=0):
        """Skips where there is less than so many MiB (of the full size) to be had."""
        memory, disk = memory // self.scale * MIB, disk // self.scale * MIB
        free = shutil.disk_usage(self.dir).free
        if memory_available() < memory * 1.05:
            raise Unavailable(f"needs {memory >> 20} MiB of free memory, {memory_available() >> 20} are there")
        if free < disk:
            raise Unavailable(f"needs {disk >> 20} MiB of free disk, {free >> 20} are there")

    def limit(self, what, mib=256, threads=1):
        """One measurement of bench/limits; None where this kernel cannot."""
        done = subprocess.run([self.binary("limits"), what, str(self.size(mib)), str(threads), self.subdir()],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=PATIENCE, check=False,
                              **self.as_user())
        if done.returncode == 3:
            return None
        if done.returncode != 0:
            raise Broken(f"limits {what}: exit {done.returncode}")
        return float(done.stdout)


class Lines:
    """Collects a job's lines with the time at which they came."""

    def __init__(self, stream):
        self.lines = []
        self.thread = threading.Thread(target=self._collect, args=(stream,), daemon=True)
        self.thread.start()

    def _collect(self, stream):
        for line in stream:
            self.lines.append((time.monotonic(), line.decode(errors="replace").split()))

    def of(self, kind, since=0.0):
        return [(at, words) for at, words in list(self.lines) if at >= since and words and words[0] == kind]


class Job:
    """A process of ours whose standard output is benchjob's (or any other's that says "ready")."""

    def __init__(self, lab, argv, cwd, env=None, user=True, stdout=None):
        self.lab = lab
        self.error = open(os.path.join(lab.subdir(), "stderr"), "w+b")
        if lab.user:  # pawl saves what the job writes to, as the user
            shutil.chown(self.error.name, lab.user, lab.user)
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout or subprocess.PIPE, stderr=self.error,
                                        cwd=cwd, env=env, start_new_session=True, **(lab.as_user() if user else {}))
        self.output = Lines(self.process.stdout) if not stdout else None
        lab.children.append(self)

    @property
    def pid(self):
        return self.process.pid

    def said(self):
        self.error.seek(0)
        return self.error.read()[-600:].decode(errors="replace")

    def check_alive(self):
        if self.process.poll() is not None:
            raise Broken(f"ended with {self.process.returncode}: {self.said()}")

    def wait_for(self, kind, since=0.0, count=1):
        def there():
            found = self.output.of(kind, since)
            if len(found) < count:
                self.check_alive()
            return found if len(found) >= count else None
        return wait_until(there, f"{count} x '{kind}' from {self.process.args}")

    def settle(self, steps=3):
        """Waits for so many more steps."""
        self.wait_for("step", time.monotonic(), steps)

    def worst(self, since, until, field):
        """The largest of field 2 (step), 3 (gap) of the steps that have ended from `since` to just after `until`."""
        self.wait_for("step", until, 2)
        seen = self.output.of("step", since)
        after = [i for i, (at, _) in enumerate(seen) if at >= until]
        return max(int(words[field]) for _, words in seen[:after[1] + 1])

    def cpu_per_step(self, since):
        """CPU seconds of the job's first process, per step."""
        seen = self.wait_for("step", since, 2)
        first, last = seen[0][1], seen[-1][1]
        return (int(last[4]) - int(first[4])) / 1e6 / (int(last[1]) - int(first[1]))

    def kill(self):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.output:
            self.output.thread.join(10)
            self.process.stdout.close()
        self.error.close()
        if self in self.lab.children:
            self.lab.children.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class PawlJob(Job):
    """A job under pawl, in a store of its own, saved when we say so."""

    def __init__(self, lab, command, options=(), interval="never", store=None, verb="run"):
        self.store = store or os.path.join(lab.subdir(), "store")
        argv = [lab.binary("pawl"), verb, "--store", self.store, "-q", "-i", interval, *options]
        argv += ["-n", "job", "--fresh", "--", *command] if verb == "run" else ["job"]
        super().__init__(lab, argv, os.path.dirname(self.store))

    def snapshot(self):
        """What pawl says of it, and what it did to the job and the machine."""
        begin, cpu, written = time.monotonic(), cpu_seconds(self.pid), proc_field(self.pid, "io", "write_bytes")
        disk = self.disk()
        done = subprocess.run([self.lab.binary("pawl"), "snapshot", "--json", "--store", self.store, "job"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=PATIENCE, **self.lab.as_user())
        end = time.monotonic()
        if done.returncode != 0:
            raise Broken(f"no snapshot: {done.stderr.decode(errors='replace')[-500:]}")
        info = json.loads(done.stdout)
        info.update(begin=begin, end=end, cpu=cpu_seconds(self.pid) - cpu, disk=self.disk() - disk)
        after = proc_field(self.pid, "io", "write_bytes")
        info["written"] = None if after is None or written is None else after - written
        return info

    def seen_snapshot(self):
        """A snapshot, with what the job itself saw of it (benchjob in mode=steps)."""
        info = self.snapshot()
        info["step_us"] = self.worst(info["begin"], info["end"], 2)
        info["gap_us"] = self.worst(info["begin"], info["end"], 3)
        return info

    def disk(self):
        total = 0
        for name in os.listdir(self.store) if os.path.isdir(self.store) else ():
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(self.store, name)).st_blocks * 512
        return total

    def recover(self, options=()):
        """After kill(): the job that goes on, and the seconds until its first instruction."""
        time.sleep(STANDSTILL)
        day, begin = time.time(), time.monotonic()
        job = PawlJob(self.lab, [], options, store=self.store, verb="recover")
        at = wait_until(lambda: job.process.poll() is not None or next(
            (at for at, words in job.output.of("awake") if int(words[1]) / 1e6 > day), None),
            f"the recovered job runs: {job.process.args}", RESTART)
        job.check_alive()
        return job, at - begin


def bench_command(lab, **options):
    """The argument vector of a benchjob."""
    return [lab.binary("benchjob"), *(f"{key}={value}" for key, value in options.items())]


def start_bench(lab, pawl_options=(), **options):
    """A benchjob under pawl, ready and running."""
    job = PawlJob(lab, bench_command(lab, **options), pawl_options)
    job.wait_for("ready")
    return job
