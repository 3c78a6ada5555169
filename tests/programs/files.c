/*
 * files.c: files change together with memory. Every round changes each file and, in memory, what it
 * must then contain; a file that is not of the same instant as the memory shows at the next check.
 */
#include "target.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK	   4096
#define REC	   64
#define N_RECORDS  1024
#define MAP_BLOCKS 16
#define LOG_LIMIT  (1 << 20)

struct files {
	int append;	 /* grows by O_APPEND */
	int records;	 /* rewritten in place */
	int cycling;	 /* grows and is truncated */
	int deleted;	 /* has no name */
	int shared, dup; /* two descriptors, one offset */
	int separate;	 /* the same file, an offset of its own */
	int readonly;
	char *map; /* MAP_SHARED */
	int map_fd;
	uint64_t round;
	uint64_t record_round[N_RECORDS];
	size_t appended, cycle_size, shared_offset;
};

static int open_in(const struct target *t, const char *name, int flags)
{
	char *path = target_path(t, name);
	int fd = open(path, flags | O_CLOEXEC, 0640);

	CHECK(fd >= 0);
	free(path);
	return fd;
}

static void set_up(const struct target *t, struct files *f)
{
	char block[BLOCK];

	memset(f, 0, sizeof(*f));
	f->append = open_in(t, "append", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
	f->records = open_in(t, "records", O_RDWR | O_CREAT | O_TRUNC);
	f->cycling = open_in(t, "cycling", O_RDWR | O_CREAT | O_TRUNC);
	f->deleted = open_in(t, "deleted", O_RDWR | O_CREAT | O_TRUNC);
	char *path = target_path(t, "deleted");
	CHECK(unlink(path) == 0);
	free(path);
	f->shared = open_in(t, "shared", O_RDWR | O_CREAT | O_TRUNC);
	f->dup = fcntl(f->shared, F_DUPFD_CLOEXEC, 100);
	CHECK(f->dup >= 100);
	f->separate = open_in(t, "shared", O_RDONLY);
	f->map_fd = open_in(t, "mapped", O_RDWR | O_CREAT | O_TRUNC);
	CHECK(ftruncate(f->map_fd, MAP_BLOCKS * BLOCK) == 0);
	f->map = mmap(NULL, MAP_BLOCKS * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, f->map_fd, 0);
	CHECK(f->map != MAP_FAILED);
	int fd = open_in(t, "input", O_WRONLY | O_CREAT | O_TRUNC);
	pattern_fill(block, BLOCK, 5);
	CHECK(write(fd, block, BLOCK) == BLOCK);
	close(fd);
	f->readonly = open_in(t, "input", O_RDONLY);
}

static void step_append(struct files *f)
{
	char rec[REC];

	if (f->appended >= LOG_LIMIT)
		return;
	pattern_fill(rec, REC, f->appended);
	CHECK(write(f->append, rec, REC) == REC);
	f->appended += REC;
}

static void step_record(struct files *f)
{
	char rec[REC];
	size_t i = mix64(f->round) % N_RECORDS;

	pattern_fill(rec, REC, f->round * N_RECORDS + i);
	CHECK(pwrite(f->records, rec, REC, (off_t)(i * REC)) == REC);
	f->record_round[i] = f->round;
	pattern_fill(rec, REC, f->round);
	CHECK(pwrite(f->deleted, rec, REC, (off_t)(f->round % 100 * REC)) == REC);
	pattern_fill(f->map + f->round % MAP_BLOCKS * BLOCK, BLOCK, f->round);
}

static void step_cycling(struct files *f)
{
	char rec[REC];

	if (f->cycle_size >= 200 * REC) {
		CHECK(ftruncate(f->cycling, 10 * REC) == 0);
		f->cycle_size = 10 * REC;
	}
	pattern_fill(rec, REC, f->cycle_size);
	CHECK(pwrite(f->cycling, rec, REC, (off_t)f->cycle_size) == REC);
	f->cycle_size += REC;
}

static void step_shared(struct files *f)
{
	char rec[REC], back[REC];
	int writer = f->round % 2 ? f->dup : f->shared;

	CHECK_EQ(lseek(f->shared, 0, SEEK_CUR), f->shared_offset);
	CHECK_EQ(lseek(f->dup, 0, SEEK_CUR), f->shared_offset);
	pattern_fill(rec, REC, f->shared_offset);
	CHECK(write(writer, rec, REC) == REC);
	CHECK(read(f->separate, back, REC) == REC);
	CHECK(!memcmp(rec, back, REC));
	f->shared_offset += REC;
	if (f->shared_offset >= 1000 * REC) {
		f->shared_offset = 0;
		CHECK(lseek(f->dup, 0, SEEK_SET) == 0);
		CHECK(lseek(f->separate, 0, SEEK_SET) == 0);
	}
}

static void step_readonly(struct files *f)
{
	uint64_t word;
	off_t at = lseek(f->readonly, 0, SEEK_CUR);

	CHECK_EQ(at, f->round % (BLOCK / 8) * 8);
	CHECK(read(f->readonly, &word, 8) == 8);
	CHECK(word == mix64(5 + (uint64_t)at / 8));
	if (at + 8 == BLOCK)
		CHECK(lseek(f->readonly, 0, SEEK_SET) == 0);
}

static void check_size(int fd, size_t size)
{
	struct stat st;

	CHECK(fstat(fd, &st) == 0);
	CHECK_EQ(st.st_size, size);
}

static void check_pattern_at(int fd, size_t at, uint64_t seed)
{
	char rec[REC];

	CHECK(pread(fd, rec, REC, (off_t)at) == REC);
	CHECK(pattern_holds(rec, REC, seed));
}

static void check_contents(const struct target *t, struct files *f)
{
	int named = open_in(t, "append", O_RDONLY);

	check_size(f->append, f->appended);
	for (size_t at = 0; at < f->appended; at += REC)
		check_pattern_at(named, at, at);
	close(named);
	check_size(f->cycling, f->cycle_size);
	for (size_t at = 0; at < f->cycle_size; at += REC)
		check_pattern_at(f->cycling, at, at);
	for (size_t i = 0; i < N_RECORDS; i++)
		if (f->record_round[i])
			check_pattern_at(f->records, i * REC, f->record_round[i] * N_RECORDS + i);
}

static void check_recent(const struct target *t, struct files *f)
{
	uint64_t first = f->round > MAP_BLOCKS ? f->round - MAP_BLOCKS : 1;
	char block[BLOCK], *path = target_path(t, "deleted");

	for (uint64_t r = first; r < f->round; r++) {
		size_t at = r % MAP_BLOCKS * BLOCK;

		CHECK(pattern_holds(f->map + at, BLOCK, r));
		CHECK(pread(f->map_fd, block, BLOCK, (off_t)at) == BLOCK);
		CHECK(!memcmp(block, f->map + at, BLOCK));
		check_pattern_at(f->deleted, r % 100 * REC, r);
	}
	CHECK(access(path, F_OK) < 0);
	free(path);
}

static void check_descriptors(struct files *f)
{
	struct stat st;

	CHECK(fcntl(f->append, F_GETFL) & O_APPEND);
	CHECK_EQ(fcntl(f->append, F_GETFL) & O_ACCMODE, O_WRONLY);
	CHECK_EQ(fcntl(f->readonly, F_GETFL) & O_ACCMODE, O_RDONLY);
	CHECK_EQ(fcntl(f->dup, F_GETFD), FD_CLOEXEC);
	CHECK(fstat(f->records, &st) == 0);
	CHECK_EQ(st.st_mode & 07777, 0640);
}

int main(int argc, char **argv)
{
	struct target target;
	static struct files files;

	umask(022);
	target_start(&target, argc, argv);
	set_up(&target, &files);
	while (!target_told(&target)) {
		step_readonly(&files);
		files.round++;
		step_append(&files);
		step_record(&files);
		step_cycling(&files);
		step_shared(&files);
		if (files.round == 200)
			target_ready(&target);
		if (files.round % 64 == 0)
			check_contents(&target, &files);
		sleep_ms(1);
	}
	files.round++;
	check_contents(&target, &files);
	check_recent(&target, &files);
	check_descriptors(&files);
	return target_pass(&target);
}
