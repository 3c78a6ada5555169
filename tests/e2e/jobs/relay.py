"""Stands in for ssh: runs the other end here, and passes on what both say, frame by frame (FORMAT.md, "The stream").

Usage: relay.py WINDOW DIR [OPTION…] -- HOST COMMAND

At WINDOW (start, ready, confirm, done: before that step of a handing over is passed on) it makes DIR/at, and waits
for DIR/go; where that says "cut", it ends there with nothing more passed on. While DIR/down exists there is no way there.
"""
import os
import subprocess
import sys
import threading
import time

HEADER, FRAME = 32, 24
REQUEST, REPLY = 13, 14
START, CONFIRM = 5, 6
WINDOWS = {"start": (REQUEST, START), "confirm": (REQUEST, CONFIRM), "ready": (REPLY, START), "done": (REPLY, CONFIRM)}


def read(fd, n):
    data = b""
    while len(data) < n:
        more = os.read(fd, n - len(data))
        if not more:
            return None
        data += more
    return data


class Relay:
    def __init__(self, window, directory, command):
        self.window, self.directory = WINDOWS[window], directory
        self.there = subprocess.Popen(["sh", "-c", "exec " + command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.asked = None

    def path(self, name):
        return os.path.join(self.directory, name)

    def look(self, kind, payload):
        if kind == REQUEST:
            self.asked = payload[1] if payload[:1] == b"\x08" else 0
        if (kind, self.asked) != self.window or os.path.exists(self.path("at")):
            return
        open(self.path("at"), "w").close()
        while not os.path.exists(self.path("go")):
            time.sleep(0.01)
        with open(self.path("go")) as go:
            if go.read() == "cut":
                os._exit(255)

    def pass_on(self, source, sink):
        try:
            data = read(source, HEADER)
            while data:
                while data:
                    data = data[os.write(sink, data):]
                head = read(source, FRAME)
                payload = read(source, int.from_bytes(head[4:8], "little")) if head else None
                if payload is None:
                    break
                self.look(int.from_bytes(head[:4], "little"), payload)
                data = head + payload
        except OSError:
            pass
        os.close(sink)

    def run(self):
        threading.Thread(target=self.pass_on, args=(0, self.there.stdin.fileno()), daemon=True).start()
        self.pass_on(self.there.stdout.fileno(), 1)
        os._exit(self.there.wait())


def main():
    window, directory = sys.argv[1:3]
    command = sys.argv[sys.argv.index("--") + 2]
    if os.path.exists(os.path.join(directory, "down")):
        sys.exit("connect: No route to host")
    Relay(window, directory, command).run()


if __name__ == "__main__":
    main()
