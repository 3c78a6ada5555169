/*
 * late.c: memory that is used in every way at once as soon as the job goes on: moved, given back, mapped over,
 * copied to children, read by the kernel, by several threads. For `recover --lazy`, where it is not there yet then.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

#define MIB   (1ull << 20)
#define AREA  (16 * MIB)
#define HALF  (AREA / 2)
#define PAGE  4096ull
#define AREAS 8
#define SEED(number) ((number) * 1000003ull)

enum { MOVED, DROPPED, HOLED, SHARED, WRITTEN, THREADED, GROWN, QUIET };

static char *area[AREAS];

static char *map(void *at, size_t size)
{
	char *p = mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* Areas do not touch: each is a mapping of its own. */
static void make_areas(void)
{
	for (uint64_t i = 0; i < AREAS; i++) {
		char *room = map(NULL, 3 * AREA);

		CHECK(munmap(room, AREA) == 0 && munmap(room + 2 * AREA, AREA) == 0);
		area[i] = room + AREA;
		pattern_fill(area[i], AREA, SEED(i));
	}
	CHECK(madvise(area[QUIET], HALF, MADV_DONTNEED) == 0);
}

static bool is_zero(const char *p, size_t size)
{
	for (size_t i = 0; i < size; i += 8)
		if (*(const uint64_t *)(p + i))
			return false;
	return true;
}

static bool holds(const char *p, uint64_t number)
{
	return pattern_holds(p, AREA, SEED(number));
}

/* The second half of the area. */
static bool second_holds(const char *p, uint64_t number)
{
	return pattern_holds(p + HALF, HALF, SEED(number) + HALF / 8);
}

static void check_moved(void)
{
	char *to = map(NULL, 2 * AREA);

	CHECK(mremap(area[MOVED], AREA, AREA, MREMAP_MAYMOVE | MREMAP_FIXED, to + AREA) == to + AREA);
	CHECK(holds(to + AREA, MOVED));
	/* A part of it once more. */
	CHECK(mremap(to + AREA, HALF, HALF, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	CHECK(pattern_holds(to, HALF, SEED(MOVED)));
}

static void check_dropped(void)
{
	CHECK(madvise(area[DROPPED], HALF, MADV_DONTNEED) == 0);
	CHECK(is_zero(area[DROPPED], HALF));
	CHECK(second_holds(area[DROPPED], DROPPED));
}

static void check_holed(void)
{
	CHECK(munmap(area[HOLED], HALF) == 0);
	CHECK(map(area[HOLED], HALF) == area[HOLED]);
	CHECK(is_zero(area[HOLED], HALF));
	CHECK(second_holds(area[HOLED], HOLED));
}

static void check_grown(void)
{
	char *p = mremap(area[GROWN], AREA, 2 * AREA, MREMAP_MAYMOVE);

	CHECK(p != MAP_FAILED);
	CHECK(holds(p, GROWN));
	CHECK(is_zero(p + AREA, AREA));
	CHECK(is_zero(area[QUIET], HALF));
}

static void await(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK_EQ(status, 0);
}

/* What one changes is its own; a child drops what the parent keeps. */
static void check_shared(void)
{
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		pid_t grandchild;

		CHECK(madvise(area[SHARED], PAGE, MADV_DONTNEED) == 0);
		grandchild = fork();
		CHECK(grandchild >= 0);
		CHECK(is_zero(area[SHARED], PAGE));
		CHECK(second_holds(area[SHARED], SHARED));
		memset(area[SHARED] + HALF, 7, PAGE);
		if (grandchild == 0)
			_exit(0);
		await(grandchild);
		CHECK(holds(area[THREADED], THREADED));
		_exit(0);
	}
	CHECK(holds(area[SHARED], SHARED));
	await(child);
	CHECK(holds(area[SHARED], SHARED));
}

static void check_program(void)
{
	pid_t child = vfork();

	CHECK(child >= 0);
	if (child == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(1);
	}
	await(child);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(1);
	}
	await(child);
}

/* The kernel reads it. */
static void check_written(const struct target *t)
{
	char *path = target_path(t, "written");
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	char *got;

	CHECK(fd >= 0);
	CHECK(write(fd, area[WRITTEN], AREA) == (ssize_t)AREA);
	got = mmap(NULL, AREA, PROT_READ, MAP_PRIVATE, fd, 0);
	CHECK(got != MAP_FAILED && holds(got, WRITTEN));
	CHECK(munmap(got, AREA) == 0 && close(fd) == 0 && unlink(path) == 0);
	free(path);
}

static void *read_along(void *arg)
{
	CHECK(holds(area[THREADED], THREADED));
	return arg;
}

int main(int argc, char **argv)
{
	struct target t;
	pthread_t threads[3];

	target_start(&t, argc, argv);
	make_areas();
	target_ready(&t);
	target_wait(&t);
	for (int i = 0; i < 3; i++)
		CHECK(pthread_create(&threads[i], NULL, read_along, NULL) == 0);
	check_moved();
	check_shared();
	check_dropped();
	check_program();
	check_holed();
	check_written(&t);
	check_grown();
	for (int i = 0; i < 3; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return target_pass(&t);
}
