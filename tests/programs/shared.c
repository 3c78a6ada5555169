/*
 * shared.c: memory and files that processes share, written all the time: memory, files and the
 * processes' own counts come back from one instant.
 *
 * Every worker counts in memory of its own, and writes the count into the next page of its part of
 * each object: shared anonymous memory, a memfd, a file of /dev/shm, a private count beside it. So
 * page k of a part must hold the last count that fell to it, not an earlier or later one.
 * Short-lived processes write too. The parent appends to a file and rewrites pages in the middle of
 * it.
 */
#include "target.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE	  4096ul
#define MIB	  (1ul << 20)
#define WORKERS	  4
#define PAGES	  2048ul /* a worker's, of each object */
#define OBJECTS	  3
#define SIZE	  ((WORKERS + 1) * PAGES * PAGE)
#define FILE_SIZE (24 * MIB)
#define RESERVE	  (4096 * MIB)

struct shared {
	const struct target *target;
	uint64_t *object[OBJECTS];
	char *reserve; /* great, and hardly used: nobody may make pages of it */
	int memfd;
};

static uint64_t *map_shared(int fd, size_t len)
{
	int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
	uint64_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static void set_up(struct shared *s, const struct target *t)
{
	char name[64];
	int fd;

	s->target = t;
	s->object[0] = map_shared(-1, SIZE);
	s->memfd = memfd_create("shared", MFD_CLOEXEC);
	CHECK(s->memfd >= 0 && ftruncate(s->memfd, (off_t)SIZE) == 0);
	s->object[1] = map_shared(s->memfd, SIZE);
	snprintf(name, sizeof(name), "/dev/shm/pawl-test-%d", getpid());
	fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)SIZE) == 0);
	s->object[2] = map_shared(fd, SIZE);
	CHECK(close(fd) == 0 && unlink(name) == 0);
	for (int i = 0; i < OBJECTS; i++)
		pattern_fill(s->object[i], SIZE, (uint64_t)i * 1000);
	s->reserve = mmap(NULL, RESERVE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(s->reserve != MAP_FAILED);
	for (size_t at = 0; at < RESERVE; at += 64 * MIB)
		pattern_fill(s->reserve + at, PAGE, 5000 + at);
}

static void check_reserve(const struct shared *s)
{
	static unsigned char resident[RESERVE / PAGE];
	size_t n = 0;

	CHECK(mincore(s->reserve, RESERVE, resident) == 0);
	for (size_t i = 0; i < RESERVE / PAGE; i++)
		n += resident[i] & 1;
	CHECK(n <= RESERVE / (64 * MIB) * 16);
	for (size_t at = 0; at < RESERVE; at += 64 * MIB) {
		CHECK(pattern_holds(s->reserve + at, PAGE, 5000 + at));
		CHECK(s->reserve[at + 8 * PAGE] == 0);
	}
}

static uint64_t *page_of(const struct shared *s, int object, unsigned part, uint64_t count)
{
	return s->object[object] + ((part * PAGES + count % PAGES) * PAGE) / 8;
}

static void write_count(const struct shared *s, unsigned part, uint64_t count)
{
	for (int i = 0; i < OBJECTS; i++)
		page_of(s, i, part, count)[5] = count;
}

/* `count` is the last that was written. */
static void check_counts(const struct shared *s, unsigned part, uint64_t count)
{
	for (int i = 0; i < OBJECTS; i++)
		for (uint64_t k = 0; k < PAGES; k++) {
			const uint64_t *page = page_of(s, i, part, k);
			uint64_t seed = (uint64_t)i * 1000 + (uint64_t)(page - s->object[i]);
			uint64_t last = count >= k ? count - (count - k) % PAGES : 0;

			if (last > 0)
				CHECK_EQ(page[5], last);
			CHECK_EQ(page[0], mix64(seed));
			CHECK_EQ(page[511], mix64(seed + 511));
		}
}

static void worker(const struct shared *s, unsigned part)
{
	uint64_t count = 0;

	while (!target_told(s->target)) {
		for (int i = 0; i < 20; i++)
			write_count(s, part, ++count);
		usleep(500);
	}
	check_counts(s, part, count);
	_exit(0);
}

/* One that is gone before anybody could look at its page tables. */
static void write_by_child(const struct shared *s, uint64_t count)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		write_count(s, WORKERS, count);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* A mapping that is gone again; and a write that no mapping shows. */
static void write_aside(const struct shared *s, uint64_t count)
{
	uint64_t *p = map_shared(s->memfd, SIZE);
	off_t at =
		(off_t)((uintptr_t)page_of(s, 1, WORKERS, count) - (uintptr_t)s->object[1]) + 8 * 6;

	p[(size_t)at / 8 + 1] = count;
	CHECK(munmap(p, SIZE) == 0);
	CHECK(pwrite(s->memfd, &count, 8, at) == 8);
}

static void check_aside(const struct shared *s, uint64_t count)
{
	for (uint64_t k = 1; k <= count && k <= PAGES; k++) {
		const uint64_t *page = page_of(s, 1, WORKERS, count - k + 1);

		CHECK_EQ(page[6], count - k + 1);
		CHECK_EQ(page[7], count - k + 1);
	}
}

static int make_file(const struct target *t)
{
	char *path = target_path(t, "growing"), *data = malloc(FILE_SIZE);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	pattern_fill(data, FILE_SIZE, 77);
	CHECK(fd >= 0 && write(fd, data, FILE_SIZE) == (ssize_t)FILE_SIZE);
	free(data);
	free(path);
	return fd;
}

static void write_file(int fd, uint64_t count)
{
	off_t at = (off_t)(count * 37 % (FILE_SIZE / PAGE) * PAGE + 64);

	CHECK(pwrite(fd, &count, 8, at) == 8);
	CHECK(write(fd, &count, 8) == 8);
}

static void check_file(int fd, uint64_t count)
{
	uint64_t value, pages = FILE_SIZE / PAGE;

	CHECK_EQ(lseek(fd, 0, SEEK_END), (off_t)(FILE_SIZE + 8 * count));
	for (uint64_t k = 1; k <= count; k++) {
		CHECK(pread(fd, &value, 8, (off_t)(FILE_SIZE + 8 * (k - 1))) == 8);
		CHECK_EQ(value, k);
		if (k + pages <= count)
			continue;
		CHECK(pread(fd, &value, 8, (off_t)(k * 37 % pages * PAGE + 64)) == 8);
		CHECK_EQ(value, k);
	}
	for (uint64_t at = 0; at < FILE_SIZE; at += PAGE) {
		CHECK(pread(fd, &value, 8, (off_t)at) == 8);
		CHECK_EQ(value, mix64(77 + at / 8));
	}
}

int main(int argc, char **argv)
{
	struct target target;
	struct shared s;
	uint64_t count = 0;
	int fd, status;

	target_start(&target, argc, argv);
	set_up(&s, &target);
	fd = make_file(&target);
	for (unsigned i = 0; i < WORKERS; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0)
			worker(&s, i);
	}
	target_ready(&target);
	while (!target_told(&target)) {
		count++;
		write_file(fd, count);
		write_by_child(&s, count);
		write_aside(&s, count);
		usleep(1000);
	}
	check_counts(&s, WORKERS, count);
	check_aside(&s, count);
	check_file(fd, count);
	check_reserve(&s);
	for (unsigned i = 0; i < WORKERS; i++)
		CHECK(wait(&status) > 0 && status == 0);
	return target_pass(&target);
}
