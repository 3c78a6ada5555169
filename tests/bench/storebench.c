/*
 * storebench [MiB [DIR]]: what the store costs, next to what the hardware gives in the same run.
 *
 * First snapshot of half-compressible pages, one of which nothing changed, one of which 1/64 and 1/4
 * did, reading it back, the same by another job, all of it new beside that; raw hashing, LZ4 and
 * write+fdatasync for comparison. Time elapsed, and of the CPUs.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/hash.h"
#include "store/store.h"

#define PAGE  STORE_PAGE_SIZE
#define CHUNK 256u /* pages given to page_table_put at once: 1 MiB */

#define MUST(call)                                                              \
	do {                                                                    \
		if ((call) < 0) {                                               \
			fprintf(stderr, "storebench: %s\n", err.msg);           \
			exit(1);                                                \
		}                                                               \
	} while (0)

static struct err err;

struct bench {
	struct store *store;
	char *memory;
	uint64_t pages;
	const char *job;
	uint64_t root, seq;
	uint64_t random;
};

static uint64_t next_random(struct bench *b)
{
	b->random ^= b->random << 13;
	b->random ^= b->random >> 7;
	b->random ^= b->random << 17;
	return b->random;
}

static void fill_page(struct bench *b, uint64_t page)
{
	uint64_t *p = (uint64_t *)(b->memory + page * PAGE);
	size_t i;

	for (i = 0; i < PAGE / 16; i++)
		p[i] = next_random(b);
}

static double seconds(void)
{
	return (double)clock_ns(CLOCK_MONOTONIC) / 1e9;
}

static double cpu_seconds(void)
{
	return (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e9;
}

/* What was done since the last line. */
static void say(const char *what, uint64_t bytes, double took, uint64_t stored)
{
	static double before;
	double now = cpu_seconds();

	printf("%-38s %6.0f MB/s %7.3f s, CPU %6.3f s", what, (double)bytes / 1e6 / took, took, now - before);
	before = now;
	if (stored)
		printf("  stored %.1f MB", (double)stored / 1e6);
	printf("\n");
	fflush(stdout);
}

static void snapshot(struct bench *b, const char *what, enum store_codec codec)
{
	Snap__Snapshot model = SNAP__SNAPSHOT__INIT;
	Snap__Process process = SNAP__PROCESS__INIT, *processes = &process;
	struct snapshot_info info = {.time = 1};
	struct store_session *session;
	struct page_table *table;
	double start = seconds(), put;
	uint64_t i;
	char line[64];

	MUST(session_begin(&session, b->store, b->job, b->seq, codec, &err));
	MUST(page_table_edit(&table, session, b->root, &err));
	for (i = 0; i < b->pages; i += CHUNK)
		MUST(page_table_put(table, 0x7f0000000 + i, b->memory + i * PAGE, CHUNK, NULL, &err));
	put = seconds() - start;
	MUST(page_table_finish(table, &b->root, &err));
	process.pages_root = b->root;
	model.processes = &processes;
	model.n_processes = 1;
	MUST(session_publish(session, &model, &info, &err));
	b->seq = info.seq;
	snprintf(line, sizeof(line), "%s (put %.3f s)", what, put);
	say(line, b->pages * PAGE, seconds() - start, info.bytes_stored);
}

static void read_back(struct bench *b)
{
	struct page_reader *reader;
	double start = seconds();
	char *buf = malloc((size_t)CHUNK * PAGE);
	uint64_t i;

	MUST(page_reader_open(&reader, b->store, b->root, &err));
	for (i = 0; i < b->pages; i += CHUNK) {
		MUST(page_reader_read(reader, 0x7f0000000 + i, CHUNK, buf, &err));
		if (memcmp(buf, b->memory + i * PAGE, (size_t)CHUNK * PAGE) != 0) {
			fprintf(stderr, "storebench: content differs\n");
			exit(1);
		}
	}
	page_reader_close(reader);
	free(buf);
	say("read back, checked", b->pages * PAGE, seconds() - start, 0);
}

static void raw_limits(struct bench *b, const char *dir)
{
	static const struct store_secret secret = {{1, 2, 3}};
	double start = seconds();
	char out[2 * PAGE], path[4096];
	uint64_t i, sum = 0, len = 0;
	int fd;

	for (i = 0; i < b->pages; i++)
		sum += hash_bytes(&secret, b->memory + i * PAGE, PAGE).lo;
	say(sum ? "raw: XXH3-128" : "", b->pages * PAGE, seconds() - start, 0);
	start = seconds();
	for (i = 0; i < b->pages; i++)
		len += (uint64_t)LZ4_compress_default(b->memory + i * PAGE, out, PAGE, sizeof(out));
	say("raw: LZ4", b->pages * PAGE, seconds() - start, len);
	snprintf(path, sizeof(path), "%s/raw", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	start = seconds();
	if (write_full(fd, b->memory, len) < 0 || fdatasync(fd) < 0)
		perror("raw write");
	say("raw: write+fdatasync of that", len, seconds() - start, 0);
	close(fd);
	unlink(path);
}

static void fill(struct bench *b)
{
	uint64_t i;

	for (i = 0; i < b->pages; i++)
		fill_page(b, i);
	say("(new contents)", b->pages * PAGE, 1, 0);
}

/* Whole, by a job that has no snapshot yet. */
static void whole(struct bench *b, const char *job, const char *what, enum store_codec codec)
{
	int lock;

	MUST(store_job_lock(b->store, job, &lock, &err));
	store_job_unlock(lock);
	b->root = b->seq = 0;
	b->job = job;
	snapshot(b, what, codec);
}

static void change(struct bench *b, uint64_t n)
{
	while (n-- > 0)
		fill_page(b, next_random(b) % b->pages);
}

int main(int argc, char **argv)
{
	struct bench b = {.random = 88172645463325252ull, .job = "bench"};
	uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 1024, i;
	char dir[4000];
	struct store_usage usage;
	double start;
	int lock;

	snprintf(dir, sizeof(dir), "%s/storebench-XXXXXX", argc > 2 ? argv[2] : "/tmp");
	if (!mkdtemp(dir)) {
		perror(dir);
		return 1;
	}
	b.pages = mib * 256;
	b.memory = mmap(NULL, b.pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	if (b.memory == MAP_FAILED) {
		perror("memory");
		return 1;
	}
	fill(&b);
	raw_limits(&b, dir);
	strcat(dir, "/store");
	MUST(store_open(&b.store, dir, STORE_CREATE, &err));
	MUST(store_job_lock(b.store, "bench", &lock, &err));
	snapshot(&b, "first", CODEC_LZ4);
	snapshot(&b, "unchanged", CODEC_LZ4);
	change(&b, b.pages / 64);
	snapshot(&b, "1/64 changed", CODEC_LZ4);
	change(&b, b.pages / 4);
	snapshot(&b, "1/4 changed", CODEC_LZ4);
	read_back(&b);
	for (i = 1; i < b.seq; i++)
		MUST(store_snapshot_drop(b.store, "bench", i, &err));
	start = seconds();
	MUST(store_gc(b.store, 0, NULL, &err));
	MUST(store_usage(b.store, &usage, &err));
	say("(gc)", 1, 1, 0);
	printf("gc to one snapshot: %.3f s; packs %.1f MB, free inside %.1f MB, file %.1f MB\n",
	       seconds() - start, (double)usage.pack_bytes / 1e6, (double)usage.free_bytes / 1e6,
	       (double)usage.file_bytes / 1e6);
	whole(&b, "twin", "the same by another job", CODEC_LZ4);
	fill(&b);
	whole(&b, "new", "all new", CODEC_LZ4);
	fill(&b);
	whole(&b, "zstd", "all new, zstd", CODEC_ZSTD);
	store_job_unlock(lock);
	store_close(b.store);
	printf("left in %s\n", dir);
	return 0;
}
