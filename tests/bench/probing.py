"""What the kernel takes to tell of a live process: CPU seconds, of this thread."""
import ctypes
import os
import random
import time

from measuring import PAGE, Unavailable

AT_ONCE = 512  # pages of a call


class Piece(ctypes.Structure):
    """struct iovec"""
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def children(pid):
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1])


def largest_below(pid):
    """The process with the most memory among those that come of pid."""
    found, todo = [], [pid]
    while todo:
        more = children(todo.pop())
        found += more
        todo += more
    if not found:
        raise Unavailable("the job's process cannot be found")
    return max(found, key=resident)


def largest_region(pid):
    regions = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if words[1].startswith("rw"):
                start, end = (int(text, 16) for text in words[0].split("-"))
                regions.append((end - start, start))
    return max(regions)


def reading_at_random(pid, pages):
    """process_vm_readv(2) of so many pages, each somewhere else, into memory that was written before."""
    size, start = largest_region(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(pages * PAGE)
    ctypes.memset(buffer, 1, len(buffer))
    spent = 0.0
    for first in range(0, pages, AT_ONCE):
        local = Piece(ctypes.addressof(buffer) + first * PAGE, AT_ONCE * PAGE)
        remote = (Piece * AT_ONCE)(*[(start + random.randrange(size // PAGE) * PAGE, PAGE) for _ in range(AT_ONCE)])
        begin = time.thread_time()
        done = libc.process_vm_readv(pid, ctypes.byref(local), 1, remote, AT_ONCE, 0)
        spent += time.thread_time() - begin
        if done != AT_ONCE * PAGE:
            raise Unavailable(f"process_vm_readv: {os.strerror(ctypes.get_errno())}")
    return spent


def reading_flags(pid):
    """/proc/PID/smaps, which alone tells what madvise(2) has set."""
    begin = time.thread_time()
    with open(f"/proc/{pid}/smaps", "rb", buffering=0) as file:
        while file.read(1 << 16):
            pass
    return time.thread_time() - begin
