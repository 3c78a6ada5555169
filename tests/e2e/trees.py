"""Jobs that are trees of processes: three snapshots, SIGKILL, recovery, the same output and files."""
import os
import shutil
import socket
import subprocess

import harness
from harness import Skip, add_case, check_equal, compare_files, need, survive
from terminal import on_terminal

JOBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs")


def source(name):
    return os.path.join(JOBS, name)


def copied(*names):
    """A prepare function that puts scripts into the working directory."""
    def prepare(path):
        for name in names:
            shutil.copy(source(name), path)
    return prepare


def saving(lab, path="."):
    """Options for a job that writes files and closes them: what is below path is saved with it."""
    return ["--save-dir", path] if b"--save-dir" in lab.pawl("run", "--help").out else []


def script(program, name, *needs, ignore=(), save=False):
    """A job that is `program name SIZE`. save: it writes files, closes them, and needs them later."""
    def run(lab, size, **more):
        for needed in needs:
            need(needed)
        survive(lab, [need(program), name, str(size)], prepare=copied(name), ignore=ignore,
                options=saving(lab) if save else (), **more)
    return run


def built(lab, command, *sources):
    """Compiles sources into a directory of the lab; the command's {} is that directory."""
    need(command[0])
    folder = lab.subdir("built")
    argv = [word.replace("{}", folder) for word in command] + [source(s) for s in sources]
    env = dict(lab.env, HOME=folder, GO111MODULE="off")
    result = subprocess.run(argv, env=env, cwd=folder, capture_output=True)
    if result.returncode:
        raise Skip(f"{command[0]} cannot build {sources[0]} here: {result.stderr[-200:]!r}")
    return folder


def make(lab, modules, **more):
    """make -j4 with a recursive make under the same jobserver."""
    need("gcc")

    def prepare(path):
        subprocess.run([need("python3"), source("make.py"), str(modules)], cwd=path, check=True)
    survive(lab, [need("make"), "-s", "-j4"], prepare=prepare, options=saving(lab), **more)


def java(lab, rounds, **more):
    folder = built(lab, ["javac", "-d", "{}"], "Children.java")
    survive(lab, [need("java"), "-Xmx256m", "-cp", folder, "Children", str(rounds)], **more)


def go(lab, rounds, **more):
    folder = built(lab, ["go", "build", "-o", "{}/storm"], "storm.go")
    survive(lab, [os.path.join(folder, "storm"), str(rounds)], **more)


def rust(lab, rounds, **more):
    folder = built(lab, ["rustc", "-O", "-o", "{}/threads"], "threads.rs")
    survive(lab, [os.path.join(folder, "threads"), str(rounds)], **more)


def mpi(lab, steps, **more):
    need("mpirun")
    folder = built(lab, ["mpicc", "-O2", "-o", "{}/ring"], "ring.c")
    lab.env["TMPDIR"] = lab.subdir("t")
    # without both, mpirun does not run as root
    lab.env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    survive(lab, [need("mpirun"), "--oversubscribe", "-n", "2", "--mca", "btl", "self,vader",
                  os.path.join(folder, "ring"), str(steps)], options=saving(lab, lab.subdir("t")), **more)


def postgres(lab, rounds, **more):
    if os.geteuid() == 0:
        raise Skip("PostgreSQL refuses to run as root")
    if not os.path.isdir("/usr/lib/postgresql"):
        raise Skip("postgresql is not installed")
    survive(lab, [need("bash"), "postgres.sh", str(rounds)], prepare=copied("postgres.sh"),
            options=saving(lab), ignore=["data/*", "*.log"], **more)


def redis(lab, rounds, **more):
    need("redis-server"), need("redis-cli")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    survive(lab, [need("bash"), "redis.sh", str(rounds), str(port)], prepare=copied("redis.sh"),
            options=saving(lab), ignore=["appendonlydir/*", "redis.log"], **more)


def multiplexer(*command):
    """A terminal multiplexer and the script in its window; what the script writes is compared."""
    def run(lab, rounds, in_snapshot=False):
        need(command[0])
        lab.env.update(SCREENDIR=lab.subdir("screen"))
        os.chmod(lab.env["SCREENDIR"], 0o700)
        inner = f"bash {source('terminal.sh')} {rounds}"
        bare = lab.bare([need("script"), "-qec", inner, "/dev/null"], cwd=lab.subdir("bare"))
        check_equal(bare.status, 0, "bare run")
        for attempt in range(4):
            cwd = lab.subdir(f"work{attempt}")
            running = on_terminal(lab, "run", "-n", "job", "--fresh", "-i", "1h",
                                  *saving(lab), "--", *command, inner, cwd=cwd)
            lab.wait_running(running)
            if harness.crash(lab, running, 3, bare.seconds / 8 / 2**attempt, in_snapshot):
                break
        running = on_terminal(lab, "recover", "job", "-i", "1h")
        check_equal(running.wait(300), 0, f"exit after recovery ({running.output[-500:]!r})")
        compare_files(lab.subdir("bare"), cwd)
    return run


# name: (job, size: some seconds)
QUICK = {
    "pipeline": (script("bash", "pipeline.sh", save=True), 40),
    "background": (script("bash", "background.sh", save=True), 30),
    "forks": (script("perl", "forks.pl"), 100),
    "xargs": (script("sh", "xargs.sh", save=True), 250),
    "pool": (script("python3", "pool.py"), 30),
    "make": (make, 50),
    "loopback": (script("python3", "loopback.py"), 150),
}
# in tools/test --long only: these need large packages
LONG = {
    "parallel": (script("bash", "parallel.sh", "parallel", save=True), 150),
    "tools": (script("bash", "tools.sh", "zstd", "pigz", "rsync", "sqlite3", "xz", "flock", save=True),
              5),
    "java": (java, 300),
    "node": (script("node", "workers.js"), 120),
    "mpi": (mpi, 250),
    "postgres": (postgres, 30),
    "redis": (redis, 30),
    "tmux": (multiplexer("tmux", "-f", "/dev/null", "-S", "socket", "new-session"), 150),
    "screen": (multiplexer("screen", "-c", "/dev/null", "-S", "pawl", "sh", "-c"), 150),
    "go": (go, 120),
    "rust": (rust, 150),
    "r": (script("Rscript", "parallel.R", save=True), 60),
    "video": (script("bash", "video.sh", "ffmpeg"), 400),
    "ruby": (script("ruby", "forks.rb"), 80),
}


def sized(function, size, **options):
    return lambda lab: function(lab, size, **options)


def add_trees():
    for name, (function, size) in (QUICK | LONG).items():
        add_case(name, sized(function, size), root=True, long=name in LONG)
        add_case(f"{name}-larger", sized(function, 3 * size), long=True, root=True)
        add_case(f"{name}-killed-in-snapshot", sized(function, 2 * size, in_snapshot=True), long=True)


add_trees()

if __name__ == "__main__":
    harness.main(jobs=3)
