#include "target.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void target_start(struct target *t, int argc, char **argv)
{
	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s DIR [VARIANT]\n", argv[0]);
		exit(2);
	}
	t->dir = argv[1];
	t->variant = argc == 3 ? argv[2] : "";
}

char *target_path(const struct target *t, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", t->dir, name) < 0)
		abort();
	return path;
}

void target_ready(const struct target *t)
{
	char *path = target_path(t, "ready");
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	close(fd);
	free(path);
}

bool target_told(const struct target *t)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/go", t->dir);
	return access(path, F_OK) == 0;
}

void target_wait(const struct target *t)
{
	while (!target_told(t))
		sleep_ms(10);
}

int target_pass(const struct target *t)
{
	(void)t;
	puts("PASS");
	return fflush(stdout) ? 1 : 0;
}

void target_skip(const char *reason)
{
	printf("SKIP: %s\n", reason);
	exit(TARGET_SKIP);
}

void target_fail(const char *file, int line, const char *what, long long a, long long b)
{
	fprintf(stderr, "FAIL %s:%d: %s (%lld, %lld)\n", file, line, what, a, b);
	exit(1);
}

int64_t now_ns(int clock)
{
	struct timespec ts;

	CHECK(clock_gettime(clock, &ts) == 0);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

void sleep_ms(long ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

void pattern_fill(void *buf, size_t len, uint64_t seed)
{
	uint64_t *word = buf;

	for (size_t i = 0; i < len / 8; i++)
		word[i] = mix64(seed + i);
}

bool pattern_holds(const void *buf, size_t len, uint64_t seed)
{
	const uint64_t *word = buf;

	for (size_t i = 0; i < len / 8; i++)
		if (word[i] != mix64(seed + i))
			return false;
	return true;
}

char process_state(pid_t pid)
{
	char path[64], text[512] = {0};
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY);
	CHECK(fd >= 0);
	CHECK(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	CHECK(strrchr(text, ')') != NULL);
	return strrchr(text, ')')[2];
}
