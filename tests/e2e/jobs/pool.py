"""multiprocessing.Pool, ProcessPoolExecutor, shared memory, queues and locks. Usage: pool.py ROUNDS"""
import concurrent.futures
import hashlib
import multiprocessing
import sys
from multiprocessing import shared_memory


def digest(task):
    round_, n = task
    data = b"%d %d" % task
    for _ in range(15000):
        data = hashlib.sha256(data).digest()
    return n, round_, data.hex()[:16]


def fill(task):
    name, part, seed = task
    memory = shared_memory.SharedMemory(name=name)
    x = seed
    for i in range(part * 4096, (part + 1) * 4096):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        memory.buf[i] = x >> 16 & 255
    memory.close()
    return x


def count(counter, lock, queue, n):
    for _ in range(300):
        with lock:
            counter.value += n
    queue.put((n, hashlib.md5(str(n).encode()).hexdigest()))


def workers_with_locks(round_):
    counter, lock, queue = multiprocessing.Value("q", 0, lock=False), multiprocessing.Lock(), multiprocessing.Queue()
    started = [multiprocessing.Process(target=count, args=(counter, lock, queue, n)) for n in range(1, 5)]
    for process in started:
        process.start()
    got = sorted(queue.get() for _ in started)
    for process in started:
        process.join()
    return counter.value, hashlib.md5(repr((round_, got)).encode()).hexdigest()


def main():
    memory = shared_memory.SharedMemory(create=True, size=16 * 4096)
    with multiprocessing.Pool(4) as pool, concurrent.futures.ProcessPoolExecutor(3) as executor:
        for round_ in range(int(sys.argv[1])):
            done = sorted(pool.imap_unordered(digest, [(round_, n) for n in range(8)]))
            ends = list(executor.map(fill, [(memory.name, n, round_ * 16 + n) for n in range(16)]))
            print(round_, done[round_ % 8], sum(ends), hashlib.md5(memory.buf).hexdigest(),
                  *workers_with_locks(round_), flush=True)
    memory.close()
    memory.unlink()


main()
