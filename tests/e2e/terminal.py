"""A command on a pseudo-terminal."""
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading

from harness import PATIENCE, wait_until


class Terminal:
    """A command on a pseudo-terminal of its own, as its session leader."""

    def __init__(self, argv, env, cwd, rows=33, columns=101):
        self.output = b""
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=env,
                                        cwd=cwd, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        try:
            while chunk := os.read(self.master, 65536):
                self.output += chunk
        except OSError:
            pass

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text)

    def expect(self, text, seconds=15):
        wait_until(lambda: text in self.output, seconds,
                   f"{text!r} on the terminal, which shows {self.output[-500:]!r}")

    def alive(self):
        return self.process.poll() is None

    def send(self, signo):
        self.process.send_signal(signo)

    def describe(self):
        return f"exit {self.wait()}: {self.output[-800:]!r}"

    def wait(self, seconds=PATIENCE):
        return self.process.wait(seconds)


def on_terminal(lab, *args, cwd=None):
    return Terminal([lab.options.pawl, *args], dict(lab.env, TERM="xterm"), cwd or lab.dir)
