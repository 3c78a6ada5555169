"""Core files, differences, and debuggers: gdb sees in a snapshot what the live process had."""
import os
import re
import signal
import subprocess
import time

import harness
from harness import case, check, check_equal, need, wait_until
from terminal import on_terminal

PYTHON_JOB = """
import ctypes, threading, time
def work(n):
    total = 0
    while True:
        total += n
        time.sleep(0.01)
for i in range(3):
    threading.Thread(target=work, args=(i,), daemon=True).start()
keep = ctypes.create_string_buffer(b"kept in memory: 271828")
print(hex(ctypes.addressof(keep)), flush=True)
while True:
    time.sleep(0.05)
"""


def gdb(*args, commands):
    """What gdb says; nothing of the user's own settings."""
    argv = [need("gdb"), "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex",
            "set sysroot /", *args]
    for command in ("set width 0", "set print thread-events off", *commands):
        argv += ["-ex", command]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return result.stdout + "\n" + result.stderr


def marked(text, name):
    """What was printed between `echo BEGIN name` and `echo END`."""
    return text.split(f"BEGIN {name}\n", 1)[1].split("END\n", 1)[0]


def section(name, *commands):
    return (f"echo BEGIN {name}\\n", *commands, "echo END\\n")


def frames(text):
    """[(function, arguments)] of backtraces, without program counters and addresses of our own."""
    return re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?(\S+) (\(.*?\))", text, re.M)


def registers(text):
    """Lines of registers, but for those of a thread that stands in front of its call instead of in it."""
    lines = re.findall(r"^(?:\w+ +0x[0-9a-f]+.*|\$\d+ = .*)$", marked(text, "registers"), re.M)
    return [line for line in lines if line.split()[0] not in ("rax", "rip")]


def thread_count(text):
    return len(re.findall(r"^\*? +\d+ +(?:Thread|LWP|process)", text, re.M))


LOOK = (*section("threads", "info threads"),
        *section("stacks", "thread apply all bt"),
        *section("variables", "thread apply all -q frame function descend",
                 "thread apply all -q print own_number"),
        *section("registers", "thread apply all info registers", "thread apply all print $ymm0",
                 "thread apply all print $mxcsr"),
        *section("values", "print squares[31]", "print squares", "print go_on"))


def saved(lab, *argv, job="job", **options):
    watchdog = lab.run(*argv, job=job, **options)
    return watchdog


def stand(lab, job="job"):
    """The job rebuilt and left stopped: (the recovery, its pid)."""
    running = lab.start("recover", job, "--stopped")
    pid = wait_until(lambda: running.out.split(b"\n")[0] if b"\n" in running.out else
                     (None if running.alive() else b"0"), 60, "the pid is printed")
    check(int(pid), f"recover --stopped: {running.describe() if not running.alive() else ''}")
    return running, int(pid)


@case(root=True)
def gdb_sees_threads_as_the_live_process_had_them(lab):
    """info threads, backtraces with arguments, variables: of the core file and of the process itself."""
    need("gdb")
    watchdog, directory = harness.start_target(lab, "debugged")
    lab.snapshot()
    lab.kill(watchdog)
    core = os.path.join(lab.dir, "core")
    lab.pawl("export", "job@1", "-o", core)
    program = lab.target("target-debugged")
    running, pid = stand(lab)
    live = gdb("-p", str(pid), commands=LOOK)
    dead = gdb(program, core, commands=LOOK)
    os.kill(pid, signal.SIGCONT)
    harness.end_target(lab, directory, running)
    check_equal(thread_count(marked(dead, "threads")), 4, f"threads in {dead[-3000:]}")
    check_equal(thread_count(marked(live, "threads")), 4, f"threads in {live[-3000:]}")
    stacks = frames(marked(dead, "stacks"))
    check(len([f for f in stacks if f[0] == "descend"]) == 4 * 6, f"stacks: {dead[-3000:]}")
    check_equal(stacks, frames(marked(live, "stacks")), "stacks")
    check_equal(marked(dead, "values"), marked(live, "values"), "values")
    check_equal(registers(dead), registers(live), "registers")
    check(len(registers(dead)) >= 4 * 20 and "v8_int32" in str(registers(dead)), marked(dead, "registers")[-3000:])
    check("961" in marked(dead, "values"), f"squares[31]: {marked(dead, 'values')[:200]}")
    check_equal(re.findall(r"^\$\d+ = (\d+)$", marked(dead, "variables"), re.M), list("3210"),
                f"thread-local variable in {marked(dead, 'variables')}")


@case()
def standing_job_is_not_saved_as_stopped(lab):
    """recover --stopped: no snapshot while it stands; stop ends it, and it goes on from where it was."""
    watchdog, directory = harness.start_target(lab, "debugged")
    lab.snapshot()
    lab.kill(watchdog)
    running, pid = stand(lab)
    result = lab.pawl("snapshot", "job", status=1)
    check(b"stands stopped" in result.err, f"snapshot says {result.err!r}")
    lab.pawl("stop", "job")
    check_equal(running.wait(60).status, harness.STOPPED_EXIT, "exit")
    check_equal(len(lab.json("list", "job")), 1, "snapshots")
    running, pid = stand(lab)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: lab.pawl("snapshot", "job", status=None).status == 0, 60, "a snapshot once it goes on")
    lab.pawl("stop", "job")
    running.wait(60)
    harness.end_target(lab, directory, lab.recover())


@case()
def standing_leaves_the_terminal_alone(lab):
    """pawl is not stopped with the job, and Ctrl-C is for pawl: it ends what stands."""
    directory = lab.subdir("target")
    watchdog = on_terminal(lab, "run", "-n", "job", "-i", "1h", "--", *lab.target_argv("tls", directory))
    harness.wait_ready(watchdog, directory)
    lab.snapshot()
    watchdog.send(signal.SIGKILL)
    watchdog.wait()
    lab.check_gone()
    terminal = on_terminal(lab, "recover", "job", "--stopped")
    terminal.expect(b"stands as it was")
    check(re.search(rb"(?m)^\d+\r?$", terminal.output), f"pid in {terminal.output!r}")
    lab.pawl("snapshot", "job", status=1)  # it answers: it is not stopped itself
    terminal.type(b"\x03")
    check_equal(terminal.wait(), harness.STOPPED_EXIT, "exit")
    lab.check_gone()


@case()
def gdb_on_a_core_of_python(lab):
    need("gdb")
    program = os.path.realpath("/usr/bin/python3")
    watchdog = lab.run(program, "-c", PYTHON_JOB)
    address = wait_until(lambda: watchdog.out.strip(), 60, "the job prints").decode()
    lab.snapshot()
    lab.kill(watchdog)
    look = (*section("threads", "info threads"), *section("stacks", "thread apply all bt"),
            *section("memory", f"x/s {address}"))
    core = os.path.join(lab.dir, "core")
    lab.pawl("export", "job", "-o", core)
    running, pid = stand(lab)
    live, dead = gdb("-p", str(pid), commands=look), gdb(program, core, commands=look)
    check_equal(lab.pawl("stop", "job").status, 0, "stop")
    running.wait(60)
    check_equal(thread_count(marked(dead, "threads")), 4, f"threads in {dead[-3000:]}")
    check("kept in memory: 271828" in marked(dead, "memory"), f"memory: {marked(dead, 'memory')}")
    check_equal(frames(marked(dead, "stacks")), frames(marked(live, "stacks")), "stacks")


@case(root=True)
def core_without_its_program(lab):
    """Program and libraries' content is in the core: memory and code can be seen on any machine."""
    need("gdb")
    program = os.path.join(lab.dir, "prog")
    harness.shutil.copy(lab.target("target-debugged"), program)
    directory = lab.subdir("target")
    watchdog = lab.run(program, directory)
    harness.wait_ready(watchdog, directory)
    lab.snapshot()
    lab.kill(watchdog)
    os.unlink(program)
    lab.pawl("export", "job@1")
    core = os.path.join(lab.dir, "job@1.core")
    text = gdb("-c", core, commands=(*section("code", "x/3i $pc"), *section("sp", "x/2gx $sp"),
                                     *section("maps", "info proc mappings")))
    check(len(re.findall(r"^(?:=>)? +0x[0-9a-f]+.*:\s+\w+", marked(text, "code"), re.M)) == 3, text[-2000:])
    check(program in marked(text, "maps") and "libc" in marked(text, "maps"), text[-2000:])
    check("Cannot access" not in text, text[-2000:])


@case()
def one_core_of_each_process(lab):
    script = "sleep 1000 & sleep 1001 & wait"
    watchdog = lab.run("sh", "-c", script)
    lab.wait_running(watchdog)
    time.sleep(0.5)
    lab.snapshot()
    folder = lab.subdir("cores")
    pids = [p["pid"] for p in lab.json("show", "job@1")["process_list"]]
    lab.pawl("export", "job", "-o", folder)
    check_equal(sorted(os.listdir(folder)), sorted(f"job@1.{pid}.core" for pid in pids), "files")
    lab.pawl("export", "job", "--pid", str(pids[1]), "-o", os.path.join(lab.dir, "second"))
    check_equal(harness.read_bytes(os.path.join(lab.dir, "second")),
                harness.read_bytes(f"{folder}/job@1.{pids[1]}.core"), "the same process twice")
    lab.pawl("export", "job", "--pid", "999", "-o", os.path.join(lab.dir, "none"), status=1)
    check(not os.path.exists(os.path.join(lab.dir, "none")), "a core file of nobody")
    check(os.stat(os.path.join(lab.dir, "second")).st_mode & 0o777 == 0o600, "mode")
    lab.kill(watchdog)


@case(disk=24)
def full_disk_leaves_no_core(lab):
    watchdog = lab.run("python3", "-c", "import os, time; b = os.urandom(40 << 20); time.sleep(1000)")
    lab.wait_running(watchdog)
    time.sleep(1)
    lab.snapshot()
    lab.kill(watchdog)
    result = lab.pawl("export", "job", "-o", os.path.join(lab.disk, "core"), status=1)
    check(b"No space left" in result.err, f"message: {result.err!r}")
    check_equal(os.listdir(lab.disk), [], "left behind")


@case()
def differences(lab):
    """What a job did between two snapshots, and nothing else."""
    path = os.path.join(lab.dir, "written")
    script = ("import sys, threading, time\nb = bytearray(8 << 20)\nf = open(sys.argv[1], 'w')\n"
              "input()\nfor i in range(100): b[i * 4096 + 50000] = 1\nf.write('x' * 5000)\nf.flush()\n"
              "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
              "print('done', flush=True)\ntime.sleep(1000)\n")
    watchdog = lab.run("python3", "-c", script, path, stdin=subprocess.PIPE)
    wait_until(lambda: os.path.exists(path), 60, "the job runs")
    time.sleep(0.5)
    lab.snapshot()
    watchdog.process.stdin.write(b"\n")
    watchdog.process.stdin.flush()
    wait_until(lambda: b"done" in watchdog.out, 60, "the job has changed things")
    lab.snapshot()
    result = lab.json("diff", "job@1", "job@2")["difference"]
    process = result["processes"][0]
    changed = process["pages_changed"] + process["pages_new"]
    check(100 <= changed < 400, f"{changed} pages changed")
    check_equal([t["change"] for t in process["threads"] if t["change"] == "new"], ["new"], "threads")
    fd = next(d for d in process["descriptors"] if d["b"] and d["b"]["object"] == path)
    check_equal((fd["a"]["offset"], fd["b"]["offset"]), (0, 5000), "offset")
    file = next(f for f in result["files"] if f["path"] == path)
    check_equal((file["change"], file["size_a"], file["size_b"]), ("changed", 0, 5000), "file")
    same = lab.json("diff", "job@2", "job@2")["difference"]
    check_equal((same["processes"], same["files"]), ([], []), "a snapshot and itself")
    text = lab.pawl("diff", "job@1", "job@2").out
    check(b"pages changed" in text and path.encode() in text, f"text: {text!r}")
    lab.kill(watchdog)


@case()
def differences_of_a_saved_directory(lab):
    folder = lab.subdir("tree")
    for name in ("keep", "change", "remove"):
        harness.write_bytes(os.path.join(folder, name), name.encode() * 100)
    watchdog = lab.run("sleep", "1000", options=("--save-dir", folder))
    lab.wait_running(watchdog)
    lab.snapshot()
    harness.write_bytes(os.path.join(folder, "change"), b"other")
    harness.write_bytes(os.path.join(folder, "add"), b"new")
    os.unlink(os.path.join(folder, "remove"))
    lab.snapshot()
    files = lab.json("diff", "job@1", "job@2")["difference"]["files"]
    check_equal(sorted((os.path.basename(f["path"]), f["change"]) for f in files),
                [("add", "new"), ("change", "changed"), ("remove", "gone")], "files")
    lab.kill(watchdog)


if __name__ == "__main__":
    harness.main()
