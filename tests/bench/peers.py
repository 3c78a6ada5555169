"""CRIU and DMTCP on the same job, where they are on the PATH."""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time

from measuring import PATIENCE, RESTART, STANDSTILL, Broken, Job, Lines, Unavailable, bench_command, wait_until


class FileLines(Lines):
    """Of a file that grows: what the job writes to must outlive us and it."""

    def __init__(self, path):
        self.ended = False
        super().__init__(open(path, "rb", buffering=0))

    def _collect(self, stream):
        rest = b""
        while not self.ended:
            if os.fstat(stream.fileno()).st_size < stream.tell():  # cut back for another restart
                stream.seek(0, os.SEEK_END)
                rest = b""
            *whole, rest = (rest + stream.read()).split(b"\n")
            now = time.monotonic()
            self.lines += [(now, line.decode(errors="replace").split()) for line in whole]
            time.sleep(0.002)
        stream.close()


class PeerJob(Job):
    """A benchjob that writes to a file, seen by a peer."""

    def __init__(self, lab, argv, user):
        self.dir = lab.subdir()
        self.out = os.path.join(self.dir, "output")
        with open(self.out, "ab") as file:
            os.chmod(self.out, 0o666)
            super().__init__(lab, argv(self.dir), self.dir, user=user, stdout=file)
        self.output = FileLines(self.out)
        self.wait_for("ready")

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.output.ended = True
        self.output.thread.join()
        self.error.close()
        if self in self.lab.children:
            self.lab.children.remove(self)
        shutil.rmtree(self.dir, ignore_errors=True)

    def call(self, *argv):
        done = subprocess.run(argv, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=PATIENCE, check=False, **self.caller())
        if done.returncode != 0:
            raise Broken(f"{os.path.basename(argv[0])} {argv[1]}: exit {done.returncode}: "
                         f"{done.stdout[-300:].decode(errors='replace')}")

    def caller(self):
        return {}

    def image_bytes(self, folder):
        return sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for name in os.listdir(folder))

    def first_beat(self, day):
        """Seconds from `day` until the restored job ran; it had stood still since before then."""
        wait_until(lambda: [words for _, words in self.output.of("awake") if int(words[1]) / 1e6 > day],
                   "the restored job runs", RESTART)
        woke = next(int(words[1]) / 1e6 for _, words in self.output.of("awake") if int(words[1]) / 1e6 > day)
        return woke - day


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7f) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def criu_frozen_us(path):
    """frozen_time of stats-dump (criu/images/stats.proto: dump = 1, of which frozen_time = 2)."""
    with open(path, "rb") as file:
        data = file.read()[12:]  # two magics and the length
    fields, at = {}, varint(data, 1)[1]
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7:
            break
        fields[tag >> 3], at = varint(data, at)
    return fields.get(2)


class CriuJob(PeerJob):
    name, factor = "CRIU", 100

    def __init__(self, lab, **options):
        program = shutil.which("criu") or shutil.which("criu", path="/usr/sbin:/usr/local/sbin")
        if not program:
            raise Unavailable("criu is not on the PATH")
        if os.getuid() != 0:
            raise Unavailable("criu needs root")
        self.program = program
        checked = subprocess.run([program, "check"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if checked.returncode != 0:
            lines = checked.stdout.decode(errors="replace").strip().splitlines() or ["no word"]
            raise Unavailable(f"'{program} check' fails here: {chr(32).join(lines[:2])}")
        self.dumps = 0
        # As root: prlimit(2) on another user's process needs CAP_SYS_RESOURCE, which root may lack in a container.
        super().__init__(lab, lambda _: bench_command(lab, **options), user=False)

    def _dump(self, *options):
        self.dumps += 1
        images = os.path.join(self.dir, f"images{self.dumps}")
        os.mkdir(images)
        self.call(self.program, "dump", "-t", str(self.pid), "-D", images, "-v1", *options)
        return images

    def snapshot(self):
        begin = time.monotonic()
        images = self._dump("--leave-running")
        end = time.monotonic()
        with contextlib.suppress(OSError, IndexError):
            frozen = criu_frozen_us(os.path.join(images, "stats-dump"))
        info = dict(begin=begin, end=end, pause_us=frozen, bytes_stored=self.image_bytes(images))
        shutil.rmtree(images)
        info["gap_us"] = self.worst(begin, end, 3)
        return info

    def restore(self):
        time.sleep(STANDSTILL)
        day = time.time()
        pidfile = os.path.join(self.dir, f"pid{time.monotonic_ns()}")
        self.call(self.program, "restore", "-D", self.images, "-d", "-v1", "--pidfile", pidfile)
        with open(pidfile) as file:
            pid = int(file.read())
        try:
            seconds = self.first_beat(day)
        finally:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)  # we are its subreaper: the pid must be free for the next
        os.truncate(self.out, self.size)
        return seconds

    def prepare(self):
        """Dumped and gone; restore() may be called any number of times."""
        self.images = self._dump()
        self.process.wait()
        self.size = os.stat(self.out).st_size


class DmtcpJob(PeerJob):
    name, factor = "DMTCP", 20

    def __init__(self, lab, **options):
        if not shutil.which("dmtcp_launch"):
            raise Unavailable("dmtcp_launch is not on the PATH")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])

        def argv(directory):
            return ["dmtcp_launch", "--new-coordinator", "--coord-port", self.port, "--ckptdir", directory, "--no-gzip",
                    "--tmpdir", directory, *bench_command(lab, **options)]
        super().__init__(lab, argv, user=True)

    def caller(self):
        return self.lab.as_user()

    def images(self):
        return [os.path.join(self.dir, name) for name in os.listdir(self.dir) if name.endswith(".dmtcp")]

    def checkpoint(self):
        """Forked checkpoints are written when the command has returned: the image has another name until then."""
        self.call("dmtcp_command", "--coord-port", self.port, "--bcheckpoint")
        wait_until(lambda: self.images() and not any(name.endswith(".temp") for name in os.listdir(self.dir)),
                   "DMTCP's image is written")

    def snapshot(self):
        begin = time.monotonic()
        self.checkpoint()
        end = time.monotonic()
        info = dict(begin=begin, end=end, pause_us=None,
                    bytes_stored=sum(os.stat(path).st_blocks * 512 for path in self.images()))
        info["gap_us"] = self.worst(begin, end, 3)
        return info

    def prepare(self):
        self.checkpoint()
        self.call("dmtcp_command", "--coord-port", self.port, "--kill")
        self.process.wait()

    def restore(self):
        time.sleep(STANDSTILL)
        day = time.time()
        # The restored job writes to where dmtcp_restart does.
        with open(self.out, "ab") as out, \
                subprocess.Popen(["dmtcp_restart", "--new-coordinator", "--coord-port", self.port, "--ckptdir", self.dir,
                                  "--tmpdir", self.dir, *self.images()], cwd=self.dir, stdin=subprocess.DEVNULL,
                                 stdout=out, stderr=subprocess.DEVNULL, **self.caller()) as restarted:
            try:
                return self.first_beat(day)
            finally:
                with contextlib.suppress(Broken):
                    self.call("dmtcp_command", "--coord-port", self.port, "--quit")
                restarted.kill()

    def kill(self):
        with contextlib.suppress(Broken):
            self.call("dmtcp_command", "--coord-port", self.port, "--quit")
        super().kill()


PEERS = [CriuJob, DmtcpJob]
