"""The job's own view: exit status, streams, environment, terminal, job control."""
import json
import os
import signal
import subprocess
import termios
import time

import harness
from harness import case, check, check_equal, read_bytes, wait_until, write_bytes
from terminal import Terminal, on_terminal


@case(root=True)
def exit_status(lab):
    for status in (0, 1, 42, 255):
        lab.pawl("run", "-n", f"e{status}", "--", "sh", "-c", f"exit {status}", status=status)
    for signo in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
        lab.pawl("run", "-n", f"s{int(signo)}", "--", "sh", "-c", f"kill -{int(signo)} $$",
                 status=128 + signo)
    lab.pawl("run", "--", "no-such-command-anywhere", status=127)
    lab.pawl("run", "--", "/etc/passwd", status=126)
    lab.pawl("run", "--", "/", status=126)
    closed = lab.subdir("closed")
    os.chmod(closed, 0)
    path = f"{closed}:{os.environ['PATH']}"
    lab.pawl("run", "--", "no-such-command-anywhere", status=127, env={"PATH": path})


@case()
def options_before_the_command(lab):
    elsewhere = lab.subdir("elsewhere")
    lab.pawl("--store", elsewhere, "run", "-n", "there", "--", "true")
    check_equal([j["name"] for j in json.loads(lab.pawl("--json", f"--store={elsewhere}", "list").out)], ["there"],
                "jobs of the other store")
    check(b"usage:" in lab.pawl("--store", elsewhere, status=2).err, "no usage")


@case()
def output_passes_through(lab):
    result = lab.pawl("run", "-n", "job", "--", "sh", "-c",
                      "echo out; echo err >&2; printf 'a\\000b'; exit 3", status=3)
    check_equal(result.out, b"out\na\0b", "stdout")
    check(b"err\n" in result.err, f"stderr: {result.err!r}")


@case()
def much_output(lab):
    """Megabytes through the pump, and into the log, unharmed and in order."""
    argv = ["seq", "1", "1500000"]
    expected = lab.bare(argv)
    result = lab.pawl("run", "-n", "job", "--", *argv)
    check_equal(result.out, expected.out, "stdout")
    check_equal(lab.log(), expected.out, "log")


@case()
def surroundings(lab):
    """cwd, umask, nice, limits, environment and arguments as without pawl."""
    shell = ("pwd; umask; nice; ulimit -S -a; ulimit -H -a; id -u; id -g; printf '%s|' \"$@\"; "
             "env | grep -v ^_= | grep -v PAWL_ | sort")
    argv = ["nice", "-n", "3", "sh", "-c",
            "umask 027; ulimit -n 222; ulimit -c 0; exec \"$@\"", "sh"]
    job = ["sh", "-c", shell, "sh", "one", "two words", "", "-x"]
    env = dict(lab.env, ODD="a b\nc", EMPTY="")
    bare = harness.Running([*argv, *job], env=env, cwd="/usr/bin").wait()
    under = harness.Running([*argv, lab.options.pawl, "run", "-n", "job", "--", *job], env=env,
                            cwd="/usr/bin").wait()
    check_equal(under.out, bare.out, "what the job sees")


@case()
def signal_dispositions(lab):
    """nohup's ignored SIGHUP stays ignored; nothing else is ignored or blocked."""
    show = "grep -E '^Sig(Blk|Ign)|^ShdPnd|^SigPnd' /proc/self/status"
    argv = ["sh", "-c", f"trap '' HUP; exec \"$@\"", "sh"]
    job = ["sh", "-c", f"exec {show}"]
    bare = lab.bare([*argv, *job])
    under = lab.bare([*argv, lab.options.pawl, "run", "-n", "job", "--", *job])
    check_equal(under.out, bare.out, "signal state")


@case()
def open_descriptors(lab):
    """The job gets the caller's descriptors and none of pawl's own."""
    result = lab.pawl("run", "-n", "job", "--", "sh", "-c", "exec ls -l /proc/self/fd")
    numbers = sorted(int(line.split()[8]) for line in result.out.splitlines()[1:])
    check_equal(numbers, [0, 1, 2, 3], "descriptors (3 is ls's own)")


@case()
def input_from_a_file(lab):
    path = os.path.join(lab.dir, "input")
    write_bytes(path, b"".join(b"%d\n" % i for i in range(100000)))
    with open(path, "rb") as stdin:
        result = lab.pawl("run", "-n", "job", "--", "md5sum", stdin=stdin)
    check_equal(result.out, lab.bare(["md5sum"], stdin=open(path, "rb")).out, "digest")


@case()
def input_from_a_pipe(lab):
    data = b"".join(b"%d\n" % i for i in range(300000))
    watchdog = lab.run("md5sum", stdin=subprocess.PIPE)
    watchdog.process.stdin.write(data)
    watchdog.process.stdin.close()
    path = os.path.join(lab.dir, "input")
    write_bytes(path, data)
    check_equal(watchdog.wait().out, lab.bare(["md5sum"], stdin=open(path, "rb")).out, "digest")


@case()
def input_from_a_file_across_a_crash(lab):
    """The position in an input file comes back."""
    path = os.path.join(lab.dir, "input")
    write_bytes(path, b"".join(b"line %d\n" % i for i in range(400)))
    script = "import sys, time\nfor line in sys.stdin:\n print(len(line), line.strip(), flush=True)\n time.sleep(0.01)"
    harness.survive(lab, ["python3", "-c", script], stdin=path)


@case()
def input_from_a_pipe_across_a_crash(lab):
    """What the job had read or was yet to read of a pipe is not lost with pawl."""
    lines = [b"line %d\n" % i for i in range(300)]
    script = ("import sys, time\nfor line in sys.stdin.buffer:\n"
              " print(len(line), line, flush=True)\n time.sleep(0.01)")
    watchdog = lab.run("python3", "-c", script, stdin=subprocess.PIPE)
    watchdog.process.stdin.write(b"".join(lines))
    watchdog.process.stdin.close()
    time.sleep(1)
    lab.snapshot()
    time.sleep(0.3)
    lab.kill(watchdog)
    lab.pawl("recover", "job")
    expected = b"".join(b"%d %r\n" % (len(line), line) for line in lines)
    check_equal(lab.log(), expected, "log")


@case()
def reader_gone(lab):
    """`pawl run … | head`: the job gets SIGPIPE or its writes fail, and all ends."""
    result = harness.Running(["sh", "-c", f"{lab.options.pawl} run -n job -- yes | head -n 3"],
                             env=lab.env, cwd=lab.dir).wait(30)
    check_equal(result.out, b"y\ny\ny\n", "output")
    lab.check_gone("after the reader has gone")


@case()
def terminal_size(lab):
    script = "trap 'stty size' WINCH; test -t 0 && test -t 1 && stty size; tty; while :; do sleep 0.1; done"
    terminal = on_terminal(lab, "run", "-n", "job", "-q", "--", "sh", "-c", script)
    terminal.expect(b"33 101")
    terminal.expect(b"/dev/")
    terminal.resize(44, 121)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.expect(b"44 121")
    terminal.process.kill()
    terminal.wait()
    lab.check_gone()


@case()
def terminal_input_and_eof(lab):
    terminal = on_terminal(lab, "run", "-n", "job", "-q", "--", "sh", "-c", "read x; echo got:$x; cat; echo end")
    terminal.type(b"hello\n")
    terminal.expect(b"got:hello")
    terminal.type(b"more\n")
    terminal.expect(b"more\r\nmore")
    terminal.type(b"\x04")
    terminal.expect(b"end")
    check_equal(terminal.wait(), 0, "exit")


@case()
def terminal_interrupt(lab):
    """^C on the terminal reaches the job as it would without pawl."""
    script = "trap 'echo caught; exit 5' INT; echo begun; while :; do sleep 0.1; done"
    terminal = on_terminal(lab, "run", "-n", "job", "-q", "--", "sh", "-c", script)
    terminal.expect(b"begun")
    terminal.type(b"\x03")
    terminal.expect(b"caught")
    check_equal(terminal.wait(), 5, "exit")


@case()
def terminal_suspend(lab):
    """^Z suspends job and pawl under an interactive shell; fg goes on."""
    terminal = Terminal(["bash", "--norc", "-i"], dict(lab.env, TERM="xterm", PS1="$ "), lab.dir)
    terminal.type(f"{lab.options.pawl} run -n job -q -- {lab.target('target-counter')} 150 20\n".encode())
    terminal.expect(b"step 10 ")
    terminal.type(b"\x1a")
    terminal.expect(b"Stopped")
    before = terminal.output.count(b"step ")
    time.sleep(0.6)
    check(terminal.output.count(b"step ") - before <= 1, "the job did not stop")
    terminal.type(b"fg\n")
    terminal.expect(b"PASS")
    # What is typed before the shell is back in the foreground is the job's.
    wait_until(lambda: b"$ " in terminal.output.split(b"PASS", 1)[1], 15, "the shell's prompt")
    terminal.type(b"exit $?\n")
    check_equal(terminal.wait(), 0, "exit")


@case()
def terminal_across_a_crash(lab):
    """A job on a terminal comes back on another one, size and modes as they should be."""
    script = ("import os, sys, time, termios\n"
              "mode = termios.tcgetattr(0); mode[3] &= ~termios.ECHO; termios.tcsetattr(0, 0, mode)\n"
              "for i in range(150):\n print('step', i, flush=True); time.sleep(0.02)\n"
              "assert not termios.tcgetattr(0)[3] & termios.ECHO\n"
              "print('answer', sys.stdin.readline().strip(), os.isatty(0), os.ttyname(0), os.get_terminal_size(0))\n")
    first = on_terminal(lab, "run", "-n", "job", "-q", "--", "python3", "-c", script)
    first.expect(b"step 20\r")
    lab.snapshot()
    first.expect(b"step 50\r")
    lab.processes()
    first.process.kill()
    first.wait()
    lab.check_gone()
    second = on_terminal(lab, "recover", "job", "-q")
    second.expect(b"step 149")
    second.type(b"yes\n")
    second.expect(b"answer yes True")
    check_equal(second.wait(), 0, "exit")


@case()
def recovered_without_a_terminal(lab):
    """A terminal job recovered where there is no terminal still runs to its end."""
    terminal = on_terminal(lab, "run", "-n", "job", "-q", "--", lab.target("target-counter"), "200", "10")
    terminal.expect(b"step 20 ")
    lab.snapshot()
    terminal.process.kill()
    terminal.wait()
    lab.check_gone()
    result = lab.pawl("recover", "job")
    check(b"PASS" in result.out, f"output: {result.out[-200:]!r}")


@case()
def time_without_snapshots(lab):
    """A job that is not saved takes as long as a bare one, but for pawl's start and end."""
    argv = [lab.target("target-floatsum"), "150"]
    bare = min(lab.bare(argv).seconds for _ in range(3))
    under = min(lab.pawl("run", "-n", f"j{i}", "-i", "1h", "--", *argv).seconds for i in range(3))
    check(under < bare * 1.15 + 0.35, f"{under:.2f} s instead of {bare:.2f} s")


if __name__ == "__main__":
    harness.main()
