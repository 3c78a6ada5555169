"""The one harness of pawl's end-to-end tests (python3, standard library only).

A test file registers functions with @case and ends with harness.main(). Each case gets a Lab: a
temporary directory with a store of its own, means to run pawl there, and the checks that every case
shares: nothing of the job is left after a SIGKILL, output is byte for byte that of a bare run.

Started as root, a file stages itself, the pawl binary and the target programs in a directory that
an ordinary user may read, and runs as that user; with --root it stays root and runs the cases that
are marked root=True. Exit status: 0 all passed, 1 a failure, 77 nothing could run.
"""
import argparse
import concurrent.futures
import fnmatch
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

USER = "pawltest"
SKIP_EXIT = 77
STOPPED_EXIT = 85
PATIENCE = 120  # seconds: no wait of a test ends sooner, for many may share the machine
CASES = []


SSH = b"""#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2
exec sh -c "exec $1"
"""


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def case(long=False, root=False, disk=0):
    """Registers a case. long: campaigns only. root: also run as root. disk: MiB of the tmpfs that
    lab.disk is (a file system of its own, small enough to fill)."""
    def register(function):
        CASES.append(dict(name=function.__name__.replace("_", "-"), run=function, long=long,
                          root=root, disk=disk))
        return function
    return register


def add_case(name, function, **options):
    """For cases that come from a table."""
    function.__name__ = name
    case(**options)(function)


def check(condition, message):
    if not condition:
        raise Failure(message)


def check_equal(got, expected, what):
    if got == expected:
        return
    if isinstance(got, bytes) and isinstance(expected, bytes):
        at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b),
                  min(len(got), len(expected)))
        raise Failure(f"{what}: {len(got)} bytes instead of {len(expected)}, first difference at {at}: "
                      f"{got[max(0, at - 40):at + 60]!r} instead of "
                      f"{expected[max(0, at - 40):at + 60]!r}")
    raise Failure(f"{what}: {got!r} instead of {expected!r}")


def wait_until(condition, seconds, what):
    """seconds: how long it takes on a slow machine; a loaded one is given PATIENCE."""
    seconds = max(seconds, PATIENCE)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise Failure(f"not within {seconds} s: {what}")


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def write_bytes(path, data):
    with open(path, "wb") as f:
        f.write(data)


def directory_contents(path, ignore=()):
    """{relative path: content} of all regular files below path. ignore: patterns of relative paths."""
    files = {}
    for folder, _, names in os.walk(path):
        for name in names:
            relative = os.path.relpath(os.path.join(folder, name), path)
            full = os.path.join(folder, name)
            if os.path.isfile(full) and not any(fnmatch.fnmatch(relative, p) for p in ignore):
                files[relative] = read_bytes(full)
    return files


def need(program):
    found = shutil.which(program)
    if not found:
        raise Skip(f"{program} is not installed")
    return found


class Result:
    def __init__(self, status, out, err, seconds):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds


class Running:
    """A process in the background whose output is collected."""

    def __init__(self, argv, *, env, cwd, stdin=subprocess.DEVNULL, stdout=None,
                 stderr=None, **options):
        self.started = time.monotonic()
        self.out, self.err = b"", b""
        self.process = subprocess.Popen(argv, env=env, cwd=cwd, stdin=stdin,
                                        stdout=stdout or subprocess.PIPE,
                                        stderr=stderr or subprocess.PIPE, **options)
        self.threads = [threading.Thread(target=self._collect, args=(stream, name), daemon=True)
                        for stream, name in ((self.process.stdout, "out"),
                                             (self.process.stderr, "err")) if stream]
        for thread in self.threads:
            thread.start()

    def _collect(self, stream, name):
        while chunk := stream.read1(65536):
            setattr(self, name, getattr(self, name) + chunk)

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def send(self, signo):
        self.process.send_signal(signo)

    def describe(self):
        """How it has ended, and what it said."""
        result = self.wait()
        return f"exit {result.status}: {result.err[-800:]!r}"

    def wait(self, seconds=120):
        seconds = max(seconds, PATIENCE)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"still running after {seconds} s: {self.process.args}; "
                          f"stderr: {self.err[-600:]!r}") from None
        for thread in self.threads:
            thread.join(10)
        return Result(status, self.out, self.err, time.monotonic() - self.started)


class Lab:
    def __init__(self, name, options):
        self.name = name
        self.options = options
        self.dir = tempfile.mkdtemp(prefix=f"pawl-{name[:24].replace('/', '-')}-", dir=options.tmp)
        self.store = os.path.join(self.dir, "store")
        self.disk = options.disk_dir
        self.random = random.Random(f"{options.seed}:{name}")
        self.token = f"PAWL_TEST_TOKEN={uuid.uuid4().hex}"
        self.started = []
        self.namespaces = {}  # name -> descriptor, which keeps the kernel from giving the name again
        key, value = self.token.split("=")
        self.env = dict(os.environ, PAWL_STORE=self.store, LC_ALL="C.UTF-8", **{key: value})
        self.env.pop("OMP_NUM_THREADS", None)

    # ---- running things ----------------------------------------------------------------------

    def subdir(self, name):
        path = os.path.join(self.dir, name)
        os.makedirs(path, exist_ok=True)
        return path

    def target(self, name):
        path = os.path.join(self.options.programs, name)
        if not os.path.exists(path):
            raise Skip(f"{name} was not built on this machine")
        return path

    def launch(self, argv, **options):
        """In the background, without pawl; ended with the case."""
        self.started.append(Running(argv, env=self.env, **{"cwd": self.dir, **options}))
        return self.started[-1]

    def pretend_ssh(self):
        """ssh://HOST/STORE is from here on a store of this machine."""
        script = os.path.join(self.dir, "ssh")
        write_bytes(script, SSH)
        os.chmod(script, 0o755)
        self.env.update(PAWL_SSH=script, PAWL_REMOTE=self.options.pawl)

    def bare(self, argv, cwd=None, stdin=subprocess.DEVNULL, seconds=300):
        return self.launch(argv, cwd=cwd or self.dir, stdin=stdin).wait(seconds)

    def start(self, *args, cwd=None, **options):
        """pawl ARGS in the background."""
        env = dict(self.env, **options.pop("env", {}))
        return Running([self.options.pawl, *args], env=env, cwd=cwd or self.dir, **options)

    def pawl(self, *args, status=0, seconds=120, **options):
        """pawl ARGS to its end; status None: any."""
        result = self.start(*args, **options).wait(seconds)
        if status is not None and result.status != status:
            raise Failure(f"pawl {' '.join(args)}: exit {result.status} instead of {status}; "
                          f"stderr: {result.err[-800:]!r}")
        return result

    def run(self, *argv, job="job", options=(), **more):
        """pawl run in the background, no snapshots of its own unless options say so."""
        interval = [] if "-i" in options else ["-i", "1h"]
        return self.start("run", "-n", job, *interval, *options, "--", *argv, **more)

    def recover(self, name="job"):
        return self.start("recover", name, "-i", "1h")

    def target_argv(self, name, directory, variant=""):
        return [self.target(f"target-{name}"), directory] + ([variant] if variant else [])

    def json(self, *args):
        result = self.pawl(*args, "--json")
        try:
            return json.loads(result.out)
        except ValueError:
            raise Failure(f"pawl {' '.join(args)} --json: not JSON: {result.out[:300]!r}") from None

    # ---- what the store knows ----------------------------------------------------------------

    def job(self, name="job"):
        return next((j for j in self.json("list") if j["name"] == name), None)

    def running(self, name="job"):
        """The job's pid once it runs, and before that (the store may not be there yet) None."""
        result = self.pawl("list", "--json", status=None)
        entries = json.loads(result.out) if result.status == 0 else []
        return next((e.get("pid") for e in entries if e["name"] == name and e["state"] == "running"),
                    None)

    def wait_running(self, watchdog, seconds=60, job="job"):
        """Until the watchdog given has its job running."""
        def state():
            if not watchdog.alive():
                raise Failure(f"{watchdog.process.args[:2]} has ended: {watchdog.describe()}")
            return self.running(job)
        wait_until(state, seconds, f"{job} runs")

    def log(self, job="job"):
        return self.pawl("log", job).out

    def verify(self, *args):
        return self.pawl("verify", *args)

    def snapshot(self, job="job", seconds=20, watchdog=None):
        """One now; waits for the job's watchdog to be there. Returns its JSON, or None where the
        watchdog given has ended meanwhile."""
        end = time.monotonic() + seconds
        while True:
            result = self.pawl("snapshot", job, "--json", status=None)
            if result.status == 0:
                return json.loads(result.out)
            if watchdog and (not watchdog.alive() or b"ended by itself" in result.err
                             or b"has no process any more" in result.err
                             or b"ended without an answer" in result.err):
                return None
            coming = b"does not run" in result.err or watchdog and (
                b"there is no job" in result.err or b"there is no store" in result.err)
            if time.monotonic() > end or not coming:
                raise Failure(f"pawl snapshot {job}: exit {result.status}: {result.err[-800:]!r}")
            time.sleep(0.05)

    # ---- processes ---------------------------------------------------------------------------

    def processes(self):
        """Pids of everything that has inherited our token or lives in one of our pid namespaces."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                namespace = os.readlink(f"/proc/{pid}/ns/pid")
                ours = self.token.encode() in read_bytes(f"/proc/{pid}/environ")
            except OSError:
                continue
            if ours and namespace != os.readlink("/proc/self/ns/pid"):
                self._keep_namespace(pid, namespace)
            if ours or namespace in self.namespaces:
                found.append(int(pid))
        return found

    def _keep_namespace(self, pid, namespace):
        if namespace in self.namespaces:
            return
        try:
            descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
        except OSError:
            return
        if os.readlink(f"/proc/self/fd/{descriptor}") == namespace:
            self.namespaces[namespace] = descriptor
        else:  # the pid has been given to another process meanwhile
            os.close(descriptor)

    def check_gone(self, what="after the watchdog's death"):
        wait_until(lambda: not self.processes(), 10, f"{what} nothing of the job is left: "
                   f"{[describe_process(p) for p in self.processes()]}")

    def kill(self, watchdog):
        """SIGKILL, as a crash would; then nothing of the job may be left."""
        self.processes()
        watchdog.send(signal.SIGKILL)
        watchdog.wait(20)
        self.check_gone()

    def kill_in_snapshot(self, watchdog, job="job"):
        """Kills at a random moment of a snapshot. False where the job has ended before."""
        last = self.snapshot(job, watchdog=watchdog)
        if not last:
            return False
        asking = self.start("snapshot", job)
        time.sleep(self.random.uniform(0, 0.02 + 1.3 * last["wall_us"] / 1e6))
        ended = not watchdog.alive()
        self.kill(watchdog)
        asking.wait(20)
        return not ended

    def clean(self):
        for running in self.started:
            if running.alive():
                running.process.kill()
                running.process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        for descriptor in self.namespaces.values():
            os.close(descriptor)
        if not self.options.keep:
            shutil.rmtree(self.dir, ignore_errors=True)


def describe_process(pid):
    try:
        return f"{pid} {read_bytes(f'/proc/{pid}/cmdline')[:80]!r}"
    except OSError:
        return str(pid)


# ---- the main job: bare run, snapshots, SIGKILL, recovery, the same output -------------------

def survive(lab, argv, *, prepare=lambda path: None, snapshots=3, in_snapshot=False, recover=None,
            stdin=None, options=(), ignore=()):
    """Runs argv bare and under pawl with a crash in between; output and files must be the same. A job that
    ends before it is killed is tried again, sooner and with fewer snapshots.
    recover: number of the snapshot to go back to, None: the newest. options: of pawl run.
    ignore: patterns of files that differ from run to run."""
    bare_dir = lab.subdir("bare")
    prepare(bare_dir)
    expected = lab.bare(argv, cwd=bare_dir, stdin=open_input(stdin), seconds=patience(lab))
    check_equal(expected.status, 0, f"bare run (stderr: {expected.err[-300:]!r})")
    spacing = min(1.0, 0.45 * expected.seconds / (snapshots + 1))
    for attempt in range(5):
        job_dir = lab.subdir(f"work{attempt}")
        prepare(job_dir)
        watchdog = lab.run(*argv, cwd=job_dir, stdin=open_input(stdin), options=["--fresh", *options])
        fewer = max(recover or 1, snapshots - attempt)
        if crash(lab, watchdog, fewer, spacing / 2**attempt, in_snapshot):
            finish(lab, expected, bare_dir, job_dir, recover, ignore)
            return
        check(watchdog.wait().status == 0, f"the job was harmed: {watchdog.describe()}")
    raise Failure(f"the job ended before it could be killed, {attempt + 1} times")


def patience(lab):
    """Seconds after which a program is held to hang; those of the campaigns are large."""
    return 1800 if lab.options.long else 300


def crash(lab, watchdog, snapshots, spacing, in_snapshot):
    """Snapshots, then SIGKILL. False where the job was faster than that: how long the bare run takes
    says little on a busy machine."""
    for _ in range(snapshots):
        time.sleep(lab.random.uniform(0.5, 1.1) * spacing)
        if not watchdog.alive():
            return False
        lab.snapshot(watchdog=watchdog)
    if in_snapshot:
        return lab.kill_in_snapshot(watchdog)
    time.sleep(lab.random.uniform(0, spacing))
    if not watchdog.alive():
        return False
    lab.kill(watchdog)
    return True


def finish(lab, expected, bare_dir, job_dir, recover=None, ignore=()):
    name = f"job@{recover}" if recover else "job"
    result = lab.pawl("recover", name, status=None, seconds=patience(lab), cwd=lab.dir)
    check(result.status == expected.status,
          f"recover: exit {result.status} instead of {expected.status}: {result.err[-800:]!r}")
    compare(lab, expected, result, bare_dir, job_dir, ignore)
    lab.check_gone("after the job's end")
    lab.verify()


def compare(lab, expected, result, bare_dir, job_dir, ignore=()):
    check_equal(lab.log(), expected.out, "log")
    check(expected.out.endswith(result.out), "what recover printed is not the end of the output: "
          f"{result.out[:80]!r}")
    compare_files(bare_dir, job_dir, ignore)


def compare_files(bare_dir, job_dir, ignore=()):
    bare, job = directory_contents(bare_dir, ignore), directory_contents(job_dir, ignore)
    check_equal((sorted(set(job) - set(bare)), sorted(set(bare) - set(job))), ([], []),
                "files too many, files missing")
    for name in bare:
        check_equal(job[name], bare[name], name)


def open_input(path):
    return open(path, "rb") if path else subprocess.DEVNULL


# ---- self-checking targets -------------------------------------------------------------------

def start_target(lab, name, variant=None, **options):
    """Returns (watchdog, directory) once the target says it is ready."""
    directory = lab.subdir("target")
    watchdog = lab.run(*lab.target_argv(name, directory, variant), **options)
    wait_ready(watchdog, directory)
    return watchdog, directory


def wait_ready(running, directory, output=None):
    """Until the target says it is ready. output: file that its standard streams are."""
    ready = os.path.join(directory, "ready")
    wait_until(lambda: os.path.exists(ready) or not running.alive(), 60, "target ready")
    if os.path.exists(ready):
        return
    result = running.wait()
    text = read_bytes(output) if output else result.out + result.err
    if result.status == SKIP_EXIT:
        raise Skip(text.decode().strip())
    raise Failure(f"target ended early: exit {result.status}: {text[-600:]!r}")


def end_target(lab, directory, running, output=None):
    """Tells the target to check itself and expects PASS."""
    write_bytes(os.path.join(directory, "go"), b"")
    result = running.wait(120)
    said = read_bytes(output) if output else lab.log()
    text = result.out + result.err + said
    check(result.status == 0, f"target: exit {result.status}: {text[-1500:]!r}")
    check(said.endswith(b"PASS\n"), f"target did not say PASS: {text[-600:]!r}")
    lab.check_gone("after the job's end")


# ---- running the cases -----------------------------------------------------------------------

def ordinary_user():
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        made = subprocess.run(["useradd", "--create-home", USER], capture_output=True)
        return pwd.getpwnam(USER if made.returncode == 0 else "nobody")


def run_as_user(options, arguments):
    """Stages everything where an ordinary user can read it and runs this file again as that user."""
    user = ordinary_user()
    here = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
    with tempfile.TemporaryDirectory(prefix="pawl-e2e-", dir=options.tmp) as stage:
        for folder in ("e2e", "fault"):
            shutil.copytree(os.path.join(here, folder), f"{stage}/{folder}",
                            ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(options.pawl, f"{stage}/pawl")
        os.mkdir(f"{stage}/programs")
        for path in find_programs(options.programs):
            shutil.copy(path, f"{stage}/programs/")
        os.mkdir(f"{stage}/home")
        for path, _, _ in os.walk(stage):
            os.chmod(path, 0o755)
        os.chown(f"{stage}/home", user.pw_uid, user.pw_gid)
        script = os.path.relpath(os.path.abspath(sys.argv[0]), here)
        command = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
                   "/usr/bin/python3", "-B", f"{stage}/{script}", *arguments,
                   "--pawl", f"{stage}/pawl", "--programs", f"{stage}/programs"]
        env = dict(os.environ, HOME=f"{stage}/home", USER=user.pw_name, LOGNAME=user.pw_name,
                   PATH="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
        for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR", "PAWL_STORE"):
            env.pop(name, None)
        return subprocess.run(command, env=env, cwd=f"{stage}/home").returncode


def find_programs(folder):
    """Executables of the build directory's tests/ (or of a staged flat directory)."""
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            if os.access(full, os.X_OK) and not name.endswith((".o", ".so")):
                yield full


def flatten_programs(options):
    """Target programs in one directory, wherever the build has put them."""
    flat = tempfile.mkdtemp(prefix="pawl-programs-", dir=options.tmp)
    for path in find_programs(options.programs):
        os.symlink(os.path.abspath(path), os.path.join(flat, os.path.basename(path)))
    return flat


def run_on_small_disk(entry, options):
    """The case again, in a mount namespace where a small tmpfs is mounted; as the same user."""
    disk = tempfile.mkdtemp(prefix="pawl-disk-", dir=options.tmp)
    script = (f"mount -t tmpfs -o size={entry['disk']}m,mode=0777 tmpfs {disk} && "
              f"exec unshare --map-user={os.getuid()} --map-group={os.getgid()} \"$@\"")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh",
               sys.executable, "-B", os.path.abspath(sys.argv[0]), "--only", entry["name"],
               "--pawl", options.pawl, "--programs", options.programs, "--seed", str(options.seed),
               "--disk-dir", disk] + (["--long"] if options.long else [])
    result = subprocess.run(command, capture_output=True, text=True)
    os.rmdir(disk)
    if result.returncode == SKIP_EXIT or "unshare" in result.stderr or "mount" in result.stderr:
        raise Skip(f"no mount namespace: {result.stderr.strip() or result.stdout.strip()}")
    if result.returncode:
        raise Failure(result.stdout.strip() + result.stderr.strip())


def run_case(entry, options):
    start = time.monotonic()
    lab = None
    try:
        if entry["disk"] and not options.disk_dir:
            run_on_small_disk(entry, options)
        else:
            lab = Lab(entry["name"], options)
            entry["run"](lab)
        outcome, text = "passed", ""
    except Skip as reason:
        outcome, text = "skipped", str(reason)
    except Failure as reason:
        outcome, text = "failed", f"{reason} [{failing_line()}]"
    except Exception:
        outcome, text = "failed", traceback.format_exc()
    finally:
        if lab:
            lab.clean()
    word = {"passed": "ok", "skipped": "skip", "failed": "FAIL"}[outcome]
    kept = f" (kept: {lab.dir})" if lab and options.keep else ""
    print(f"{word:4} {entry['name']} ({time.monotonic() - start:.1f} s){kept}"
          + (f": {text}" if text else ""), flush=True)
    return entry["name"], outcome, text


def failing_line():
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [f for f in frames if not f.filename.endswith("harness.py")] or frames
    return f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}"


def parse_arguments(jobs):
    parser = argparse.ArgumentParser()
    parser.add_argument("--pawl", required=True)
    parser.add_argument("--programs", required=True, help="build directory's tests/")
    parser.add_argument("--only", action="append",
                        help="run just this case, or all cases NAME/… (repeatable)")
    parser.add_argument("--long", action="store_true", help="campaigns too")
    parser.add_argument("--root", action="store_true", help="stay root, cases that matter there")
    parser.add_argument("--jobs", type=int, default=jobs, help="cases at a time")
    parser.add_argument("--rounds", type=int, help="of a campaign")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--tmp", default=os.environ.get("TMPDIR", "/tmp"))
    parser.add_argument("--keep", action="store_true", help="keep the temporary directories")
    parser.add_argument("--disk-dir", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.pawl = os.path.abspath(options.pawl)
    return options


def why_not(options):
    if options.root and os.geteuid() != 0:
        return "needs root"
    if os.geteuid() != 0 and subprocess.run(["unshare", "-Ur", "true"],
                                            capture_output=True).returncode:
        return "this machine forbids user namespaces"
    return None


def selected(options):
    return [entry for entry in CASES
            if (not options.only or entry["name"] in options.only
                or entry["name"].partition("/")[0] in options.only)
            and (options.long or not entry["long"] or entry["name"] in (options.only or ()))
            and (entry["root"] or not options.root)]


def main(jobs=2, summary=None):
    """jobs: cases at a time. summary: called with [(name, outcome, text)] before the counts."""
    # A script's background jobs ignore these two, and so would every job started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    # Where we were put into a pid namespace from outside, our session has no number in it (0) that an
    # attached job could find again after its recovery (pawl(1), attach).
    if os.getsid(0) == 0:
        os.setsid()
    options = parse_arguments(jobs)
    if os.geteuid() == 0 and not options.root:
        sys.exit(run_as_user(options, sys.argv[1:]))
    reason = why_not(options)
    if reason:
        print(f"skip all: {reason}\n0 passed, 0 failed, {len(selected(options))} skipped")
        sys.exit(SKIP_EXIT)
    print(f"seed {options.seed}, uid {os.geteuid()}", flush=True)
    options.programs = flatten_programs(options)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda entry: run_case(entry, options), selected(options)))
    shutil.rmtree(options.programs)
    if summary:
        summary(results)
    outcomes = [outcome for _, outcome, _ in results]
    passed, failed = outcomes.count("passed"), outcomes.count("failed")
    print(f"{passed} passed, {failed} failed, {outcomes.count('skipped')} skipped", flush=True)
    sys.exit(1 if failed else 0 if passed else SKIP_EXIT)
