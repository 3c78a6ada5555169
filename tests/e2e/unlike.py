"""Unlike nodes: another kernel, another CPU, other libraries or none, another clock.

One machine stands for the other node: the snapshot is altered (tests/fault/alter.c) to be one that a
different machine has taken, or what it needs is taken away before the recovery."""
import hashlib
import os
import re
import shutil
import subprocess

import harness
from harness import Skip, case, check, check_equal, wait_until, write_bytes


def alter(lab, *changes, job="job"):
    result = lab.launch([lab.target("alter"), lab.store, job, *changes]).wait(60)
    check(result.status == 0, f"alter {changes}: {result.err!r}")


def cut_off(lab, target, variant=None, options=()):
    """The target saved, and its node gone. Returns its directory."""
    watchdog, directory = harness.start_target(lab, target, variant, options=options)
    lab.snapshot()
    lab.kill(watchdog)
    return directory


def twice(lab, directory):
    """Recovered, saved and lost again, recovered and ended."""
    watchdog = lab.recover()
    lab.wait_running(watchdog)
    lab.snapshot(watchdog=watchdog)
    lab.kill(watchdog)
    harness.end_target(lab, directory, lab.recover())
    lab.verify()


def cpu_flags():
    with open("/proc/cpuinfo", encoding="ascii") as info:
        return next(line for line in info if line.startswith("flags")).split()


def another_vdso(target, variant=None):
    def run(lab):
        directory = cut_off(lab, target, variant)
        alter(lab, "vdso", "hostname=elsewhere")
        check_equal(lab.json("show", "job")["hostname"], "elsewhere", "hostname")
        twice(lab, directory)
    return run


harness.add_case("vdso-of-another-kernel", another_vdso("vdso"), root=True)
harness.add_case("sleeps-over-the-vdso-of-another-kernel", another_vdso("sleeps"))


@case(root=True)
def registers_laid_out_otherwise(lab):
    """AVX registers from where another vendor's CPU keeps them."""
    directory = cut_off(lab, "fpu")
    alter(lab, "layout")
    twice(lab, directory)


@case()
def wall_clock_off_by_hours(lab):
    """Monotonic time goes on where it was: timers and sleeps do not notice."""
    for target, change in (("timers", "clock=18000"), ("sleeps", "clock=18446744073709533616")):
        watchdog, directory = harness.start_target(lab, target, options=("--fresh",))
        lab.snapshot()
        lab.kill(watchdog)
        alter(lab, change)
        harness.end_target(lab, directory, lab.recover())
        shutil.rmtree(directory)


@case(root=True)
def avx512_is_refused_by_name(lab):
    if "avx512f" in cpu_flags():
        raise Skip("this CPU has AVX-512")
    cut_off(lab, "tls")
    alter(lab, "avx512")
    for command in (("recover", "job"), ("recover", "job", "--dry-run")):
        result = lab.pawl(*command, status=None)
        check(result.status == 125 and b"AVX-512" in result.err, f"{command}: {result.status} {result.err!r}")
    check_equal(lab.processes(), [], "processes after the refusal")
    alter(lab, "baseline=3")
    watchdog = lab.recover()
    lab.wait_running(watchdog)
    lab.kill(watchdog)


@case()
def registers_in_use_are_refused_by_name(lab):
    """Whatever the job was kept to, what it holds must have a place."""
    if "amx_tile" in cpu_flags():
        raise Skip("this CPU has AMX")
    cut_off(lab, "tls")
    alter(lab, "amx-used", "baseline=2")
    result = lab.pawl("recover", "job", status=125)
    check(b"AMX tile" in result.err and b"thread" in result.err, f"message: {result.err!r}")
    check_equal(lab.processes(), [], "processes after the refusal")


# ---- programs and libraries ------------------------------------------------------------------

def libraries_of(program):
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+)", text)


def own_installation(lab, target):
    """A program with libraries of its own; the command that runs it."""
    folder = lab.subdir("installation")
    program = lab.target(f"target-{target}")
    loader = None
    for path in [program, *libraries_of(program)]:
        shutil.copy(path, folder)
        if os.path.basename(path).startswith("ld-linux"):
            loader = os.path.join(folder, os.path.basename(path))
    return folder, [loader, "--library-path", folder, os.path.join(folder, os.path.basename(program))]


def no_such_program(change):
    def run(lab):
        folder, argv = own_installation(lab, "tls")
        directory = lab.subdir("target")
        watchdog = lab.run(*argv, directory)
        harness.wait_ready(watchdog, directory)
        lab.snapshot()
        lab.kill(watchdog)
        change(folder)
        twice(lab, directory)
    return run


def replace_all(folder):
    """Other versions: other files under the same names, of the same size too."""
    for i, name in enumerate(sorted(os.listdir(folder))):
        path = os.path.join(folder, name)
        size = os.stat(path).st_size
        os.unlink(path)
        write_bytes(path, b"\x7fELF another version" + bytes(size - 20 if i % 2 else 1000))


harness.add_case("program-and-libraries-are-gone", no_such_program(shutil.rmtree), root=True)
harness.add_case("program-and-libraries-are-others", no_such_program(replace_all))


MAPPER = """
import mmap, sys, time, hashlib
f = open(sys.argv[1], "rb")
m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
p = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
f.close()
print("mapped", flush=True)
while not __import__("os").path.exists(sys.argv[2]):
    time.sleep(0.05)
print(hashlib.sha256(m[:]).hexdigest(), hashlib.sha256(p[:]).hexdigest(), flush=True)
"""


@case()
def mapped_files_travel(lab):
    """Locales, fonts, data that programs map: another machine has another version, or none."""
    path, go = os.path.join(lab.dir, "data"), os.path.join(lab.dir, "go")
    content = lab.random.randbytes(300000)
    write_bytes(path, content)
    watchdog = lab.run("python3", "-c", MAPPER, path, go)
    wait_until(lambda: b"mapped" in watchdog.out, 60, "the job has mapped it")
    lab.snapshot()
    lab.kill(watchdog)
    write_bytes(path, content[:1000] + b"other" + content[1005:])
    watchdog = lab.recover()
    lab.wait_running(watchdog)
    lab.snapshot()
    lab.kill(watchdog)
    os.unlink(path)
    write_bytes(go, b"")
    lab.pawl("recover", "job")
    digest = hashlib.sha256(content).hexdigest().encode()
    check_equal(lab.log(), b"mapped\n" + digest + b" " + digest + b"\n", "log")


# ---- --cpu-baseline --------------------------------------------------------------------------

@case(root=True)
def baseline_is_kept(lab):
    """What the job sees of the CPU, before and after a recovery, and what its snapshots say."""
    if "avx2" not in cpu_flags():
        raise Skip("this CPU has nothing beyond x86-64-v2")
    watchdog, directory = harness.start_target(lab, "cpulevel", options=("--cpu-baseline", "x86-64-v2"))
    lab.snapshot()
    shown = lab.json("show", "job@1")
    check(shown["cpu_baseline"] == 2 and shown["cpu_level"] >= 3, f"show: {shown}")
    check(b"kept to x86-64-v2" in lab.pawl("show", "job@1").out, "show")
    lab.kill(watchdog)
    watchdog = lab.recover()
    lab.wait_running(watchdog)
    lab.snapshot(watchdog=watchdog)
    check_equal(lab.json("show", "job@2")["cpu_baseline"], 2, "after a recovery")
    lab.kill(watchdog)
    harness.end_target(lab, directory, lab.recover())
    check_equal(lab.log().split(b"\n")[0], b"avx=0 avx2=0 fma=0 bmi2=0 avx512f=0", "features")


@case()
def baseline_reaches_the_libraries(lab):
    """numpy, OpenSSL and the loader's choice of library variants; what the user has set stays."""
    if "avx2" not in cpu_flags():
        raise Skip("this CPU has nothing beyond x86-64-v2")
    script = ("import numpy\n"
              "from numpy.core._multiarray_umath import __cpu_features__ as f\n"
              "print(f['AVX2'], f['FMA3'], f['AVX512F'], f['SSE42'])\n"
              "print(numpy.dot(numpy.ones((50, 50)), numpy.ones((50, 50)))[0, 0])")
    result = lab.pawl("run", "-n", "np", "--cpu-baseline", "x86-64-v2", "--", "python3", "-c", script)
    check_equal(result.out.split(b"\n")[:2], [b"False False False True", b"50.0"], "numpy")
    # A NumPy older than the CPU does not know the newest group, says so, and cannot use it either.
    check_equal(re.sub(rb"[^\n]*During parsing[^\n]*NPY_DISABLE_CPU_FEATURES[^\n]*\n"
                       rb"You cannot disable CPU features \(AVX512_SPR\)[^\n]*\n\([^\n]*\n", b"", result.err),
                b"", "standard error")
    env = {"OPENBLAS_CORETYPE": "Zen", "GODEBUG": "x=1", "GLIBC_TUNABLES": "glibc.malloc.check=0"}
    result = lab.pawl("run", "-n", "env", "--cpu-baseline", "x86-64-v2", "--", "env", env=env)
    seen = dict(line.split("=", 1) for line in result.out.decode().splitlines() if "=" in line)
    check_equal(seen["OPENBLAS_CORETYPE"], "Zen", "the user's own setting")
    check(seen["GODEBUG"].startswith("x=1,cpu.") and "cpu.avx2=off" in seen["GODEBUG"], seen["GODEBUG"])
    check(re.match(r"glibc\.malloc\.check=0:glibc\.cpu\.hwcaps=.*-AVX2\b", seen["GLIBC_TUNABLES"]),
          seen["GLIBC_TUNABLES"])
    check_equal(seen["MKL_ENABLE_INSTRUCTIONS"], "SSE4_2", "MKL")
    loader = next(path for path in libraries_of("/usr/bin/env") if "ld-linux" in path)
    result = lab.pawl("run", "-n", "ld", "--cpu-baseline", "x86-64-v2", "--", loader, "--help")
    check(b"x86-64-v2 (supported" in result.out and b"x86-64-v3 (supported" not in result.out,
          f"the loader: {result.out[-600:]!r}")


@case()
def baseline_misuse(lab):
    result = lab.pawl("run", "--cpu-baseline", "v3", "--", "true", status=2)
    check(b"x86-64-v2, x86-64-v3 or x86-64-v4" in result.err, f"message: {result.err!r}")
    result = lab.pawl("doctor", status=None)
    check(re.search(rb"x86-64-v[1-4]", result.out), "doctor does not tell the level")


if __name__ == "__main__":
    harness.main()
