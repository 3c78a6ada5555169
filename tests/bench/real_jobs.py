"""Figures of real programs."""
import os
import shutil
import subprocess

from figures import group, ms, of_samples, row, warm_up
from measuring import MIB, PawlJob, Unavailable, median

NUMPY = """
import numpy as np, sys, time
n = int(sys.argv[1])
matrix = np.random.default_rng(1).random((n, n))
vector = np.ones(n)
print("ready", flush=True)
for step in range(1, 10**9):
    begin = time.monotonic()
    for _ in range(20):
        vector = matrix @ vector
        vector /= np.abs(vector).max()
    row = step % n
    matrix[row:row + 64] *= 1.0000001
    print("step", step, int((time.monotonic() - begin) * 1e6), 0, 0, flush=True)
"""

JAVA = """
public class Bench {
    public static void main(String[] args) throws Exception {
        byte[][] blocks = new byte[Integer.parseInt(args[0])][1 << 20];
        java.util.Random random = new java.util.Random(1);
        for (byte[] block : blocks)
            random.nextBytes(block);
        System.out.println("ready");
        for (long step = 1; ; step++) {
            long begin = System.nanoTime();
            for (int i = 0; i < 8; i++)
                random.nextBytes(blocks[random.nextInt(blocks.length)]);
            StringBuilder garbage = new StringBuilder();
            for (int i = 0; i < 100000; i++)
                garbage.append(i);
            Thread.sleep(50);
            System.out.println("step " + step + " " + (System.nanoTime() - begin) / 1000 + " 0 0 " + garbage.length() % 2);
        }
    }
}
"""


def python(lab):
    for path in ("/usr/bin/python3", shutil.which("python3")):
        if path and subprocess.run([path, "-c", "import numpy"], stderr=subprocess.DEVNULL, check=False, cwd="/",
                                   **lab.as_user()).returncode == 0:
            return path
    raise Unavailable("python3 has no numpy here")


def numpy_command(lab, directory):
    return [python(lab), "-c", NUMPY, str(int((lab.size(512) * MIB / 8) ** 0.5))]


def java_command(lab, directory):
    java, javac = shutil.which("java"), shutil.which("javac")
    if not java or not javac:
        raise Unavailable("java and javac are not installed")
    with open(os.path.join(directory, "Bench.java"), "w") as f:
        f.write(JAVA)
    if subprocess.run([javac, "-d", directory, os.path.join(directory, "Bench.java")], check=False).returncode != 0:
        raise Unavailable("javac fails")
    mib = lab.size(512)
    return [java, f"-Xmx{mib * 2 + 64}m", "-cp", directory, "Bench", str(mib)]


@group("real", 40)
def real(lab):
    """A numpy matrix job and a Java program, 512 MiB each"""
    rows = []
    for name, make in (("numpy", numpy_command), ("java", java_command)):
        try:
            rows += measure(lab, name, make)
        except Unavailable as reason:
            rows.append(row(f"pause-{name}", f"pause, {name}", None, "ms", note=str(reason)))
    return rows


def measure(lab, name, make):
    lab.need(memory=2500, disk=4000)
    directory = lab.subdir()
    with PawlJob(lab, make(lab, directory), ["--keep", "2"]) as job:
        job.wait_for("ready")
        warm_up(job)
        seen = []
        for _ in range(lab.rounds):
            seen.append(job.snapshot())
            job.settle(3)
    return [of_samples(f"pause-{name}", f"pause, {name}", [ms(i["pause_us"]) for i in seen], "ms",
                       note=f"{median([i['pages_changed'] for i in seen]) / 256:.0f} MiB changed of "
                            f"{seen[-1]['pages_resident'] / 256:.0f}, {median([i['cpu'] for i in seen]):.2f} core-s, "
                            f"{median([i['bytes_stored'] for i in seen]) / MIB:.1f} MiB stored")]
