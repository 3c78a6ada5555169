/*
 * limits.c: what this machine can do at best, for tools/bench to measure pawl against.
 *
 * Usage: limits WHAT MIB THREADS [DIR]
 *
 * Prints one number. WHAT, and its unit:
 *   read      process_vm_readv of a live process                          bytes/s
 *   readpages … of every fifth page of it, each on its own                bytes/s of CPU time
 *   copy      memcpy from and to memory that is there                     bytes/s
 *   hash      XXH3-128 of each page                                       bytes/s
 *   lz4       LZ4 of each page of the bench jobs, by THREADS threads      bytes/s of input
 *   lz4page   what such a page takes then                                 bytes
 *   write     sequential write of MIB MiB to a new file in DIR, fdatasync bytes/s
 *   writecpu  the CPU time of that                                        seconds/GiB
 *   fill      first touch and filling of fresh memory, THREADS threads    bytes/s
 *   fork      fork of a process with that much memory                     seconds/GiB
 *   scan      PAGEMAP_SCAN that protects again, 1 % of the pages written  seconds/GiB
 *   protect   first write to a page so protected, beyond a later write's  seconds/page
 * Exit status 3 where this kernel lacks what WHAT needs.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <lz4.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpointer/pagemap_scan.h"
#include "halfpage.h"

#define MIB	    (1024.0 * 1024.0)
#define PAGE	    4096ull
#define BUFFER	    (1ull << 20)
#define PAGES_AT_ONCE 256
#define UNAVAILABLE 3
#define WRITTEN	    100 /* scan: one page in that many */

struct limit {
	uint64_t bytes, threads;
	const char *dir;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double cpu_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static char *fresh(uint64_t bytes)
{
	char *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("limits: mmap");
	return memory;
}

static void fill(char *memory, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += PAGE)
		write_page((uint64_t *)(void *)(memory + at), at, 1);
}

static char *filled(uint64_t bytes)
{
	char *memory = fresh(bytes);

	fill(memory, bytes);
	return memory;
}

/* ---- memory -------------------------------------------------------------------------------- */

/* Its memory must be its own: a fork's copy is slower to read. */
static pid_t start_reader_target(char *memory, uint64_t bytes)
{
	int ready[2];
	char byte = 0;
	pid_t pid;

	if (pipe(ready) < 0 || (pid = fork()) < 0)
		fail("limits: fork");
	if (pid == 0) {
		fill(memory, bytes);
		if (write(ready[1], &byte, 1) == 1)
			pause();
		_exit(1);
	}
	if (read(ready[0], &byte, 1) != 1)
		fail("limits: target");
	return pid;
}

static double measure_read(const struct limit *l)
{
	char *there = fresh(l->bytes), *here = filled(BUFFER);
	pid_t pid = start_reader_target(there, l->bytes);
	double begin = now();

	for (uint64_t at = 0; at < l->bytes; at += BUFFER) {
		struct iovec to = {here, BUFFER}, from = {there + at, BUFFER};

		if (process_vm_readv(pid, &to, 1, &from, 1, 0) != (ssize_t)BUFFER)
			fail("limits: process_vm_readv");
	}
	begin = now() - begin;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return (double)l->bytes / begin;
}

/* Of every fifth page, as they lie where a job writes at random: CPU time. */
static double measure_readpages(const struct limit *l)
{
	char *there = fresh(l->bytes), *here = filled(PAGES_AT_ONCE * PAGE);
	struct iovec to = {here, PAGES_AT_ONCE * PAGE}, from[PAGES_AT_ONCE];
	pid_t pid = start_reader_target(there, l->bytes);
	double begin = cpu_time();
	uint64_t done = 0;
	size_t n = 0;

	for (uint64_t at = 0; at < l->bytes; at += 5 * PAGE) {
		from[n++] = (struct iovec){there + at, PAGE};
		if (n < PAGES_AT_ONCE)
			continue;
		if (process_vm_readv(pid, &to, 1, from, n, 0) != (ssize_t)(n * PAGE))
			fail("limits: process_vm_readv");
		done += n * PAGE;
		n = 0;
	}
	begin = cpu_time() - begin;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return (double)done / begin;
}

static double measure_copy(const struct limit *l)
{
	char *from = filled(l->bytes), *to = filled(l->bytes);
	double begin = now();

	memcpy(to, from, l->bytes);
	return (double)l->bytes / (now() - begin);
}

static double measure_hash(const struct limit *l)
{
	char *memory = filled(l->bytes);
	volatile uint64_t sink = 0;
	double begin = now();

	for (uint64_t at = 0; at < l->bytes; at += PAGE)
		sink = sink + XXH3_128bits(memory + at, PAGE).low64;
	return (double)l->bytes / (now() - begin);
}

static double measure_fork(const struct limit *l)
{
	char *memory = filled(l->bytes);
	double begin = now(), took;
	pid_t pid = fork();

	if (pid == 0)
		pause();
	took = now() - begin;
	if (pid < 0)
		fail("limits: fork");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(memory, l->bytes);
	return took / ((double)l->bytes / MIB / 1024);
}

/* ---- threads ------------------------------------------------------------------------------- */

struct part {
	pthread_t thread;
	char *memory;
	uint64_t bytes, result;
};

static void *compress_part(void *arg)
{
	struct part *p = arg;
	char out[LZ4_COMPRESSBOUND(PAGE)];

	for (uint64_t at = 0; at < p->bytes; at += PAGE)
		p->result += (uint64_t)LZ4_compress_default(p->memory + at, out, PAGE, sizeof(out));
	return NULL;
}

static void *fill_part(void *arg)
{
	static char source[BUFFER];
	struct part *p = arg;

	for (uint64_t at = 0; at < p->bytes; at += PAGE)
		memcpy(p->memory + at, source + at % BUFFER, PAGE);
	return NULL;
}

/* Seconds it takes; *ret_sum of the parts' results. */
static double in_parts(const struct limit *l, char *memory, void *(*body)(void *),
		       uint64_t *ret_sum)
{
	struct part *parts = calloc(l->threads, sizeof(*parts));
	uint64_t each = l->bytes / l->threads / PAGE * PAGE;
	double begin = now();

	for (uint64_t i = 0; i < l->threads; i++) {
		parts[i] = (struct part){.memory = memory + i * each, .bytes = each};
		if (pthread_create(&parts[i].thread, NULL, body, &parts[i]))
			fail("limits: thread");
	}
	*ret_sum = 0;
	for (uint64_t i = 0; i < l->threads; i++) {
		pthread_join(parts[i].thread, NULL);
		*ret_sum += parts[i].result;
	}
	free(parts);
	return now() - begin;
}

static double measure_lz4(const struct limit *l)
{
	uint64_t sum;

	return (double)l->bytes / in_parts(l, filled(l->bytes), compress_part, &sum);
}

static double measure_lz4page(const struct limit *l)
{
	uint64_t sum;

	in_parts(l, filled(l->bytes), compress_part, &sum);
	return (double)sum / ((double)l->bytes / PAGE);
}

static double measure_fill(const struct limit *l)
{
	uint64_t sum;

	return (double)l->bytes / in_parts(l, fresh(l->bytes), fill_part, &sum);
}

/* ---- disk ---------------------------------------------------------------------------------- */

/* Seconds by that clock. */
static double write_by(const struct limit *l, double (*clock)(void))
{
	char path[4096], *data = filled(BUFFER);
	double begin, took;
	int fd;

	snprintf(path, sizeof(path), "%s/limits.XXXXXX", l->dir);
	fd = mkstemp(path);
	if (fd < 0)
		fail(path);
	unlink(path);
	begin = clock();
	for (uint64_t at = 0; at < l->bytes; at += BUFFER)
		if (write(fd, data, BUFFER) != (ssize_t)BUFFER)
			fail("limits: write");
	if (fdatasync(fd) < 0)
		fail("limits: fdatasync");
	took = clock() - begin;
	close(fd);
	return took;
}

static double measure_write(const struct limit *l)
{
	return (double)l->bytes / write_by(l, now);
}

static double measure_writecpu(const struct limit *l)
{
	return write_by(l, cpu_time) / ((double)l->bytes / MIB / 1024);
}

/* ---- write protection ---------------------------------------------------------------------- */

struct protected
{
	char *memory;
	uint64_t bytes;
	int pagemap;
};

static void scan(const struct protected *p)
{
	static struct page_region found[4096];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)p->memory,
		.end = (uintptr_t)p->memory + p->bytes,
		.vec = (uintptr_t)found,
		.vec_len = 4096,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};

	while (arg.start < arg.end) {
		if (ioctl(p->pagemap, PAGEMAP_SCAN, &arg) < 0)
			exit(UNAVAILABLE);
		arg.start = arg.walk_end;
	}
}

static void protect(struct protected *p, uint64_t bytes)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_WP_UNPOPULATED |
					     UFFD_WP_ASYNC};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_WP};

	p->memory = filled(bytes);
	p->bytes = bytes;
	p->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	reg.range.start = (uintptr_t)p->memory;
	reg.range.len = bytes;
	if (uffd < 0 || p->pagemap < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		exit(UNAVAILABLE);
	scan(p);
}

static double measure_scan(const struct limit *l)
{
	struct protected p;
	double begin;

	protect(&p, l->bytes);
	for (uint64_t at = 0; at < l->bytes; at += WRITTEN * PAGE)
		p.memory[at] = 1;
	begin = now();
	scan(&p);
	return (now() - begin) / ((double)l->bytes / MIB / 1024);
}

static double touch(const struct protected *p)
{
	double begin = now();

	for (uint64_t at = 0; at < p->bytes; at += PAGE)
		((volatile char *)p->memory)[at] = 2;
	return now() - begin;
}

static double measure_protect(const struct limit *l)
{
	struct protected p;
	double first;

	protect(&p, l->bytes);
	first = touch(&p);
	return (first - touch(&p)) / ((double)l->bytes / PAGE);
}

/* -------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		double (*measure)(const struct limit *l);
	} all[] = {
		{"read", measure_read},	      {"readpages", measure_readpages},
		{"copy", measure_copy},
		{"hash", measure_hash},	      {"lz4", measure_lz4},
		{"lz4page", measure_lz4page}, {"write", measure_write},
		{"writecpu", measure_writecpu},
		{"fill", measure_fill},	      {"fork", measure_fork},
		{"scan", measure_scan},	      {"protect", measure_protect},
	};
	struct limit l = {.dir = argc > 4 ? argv[4] : "."};

	if (argc < 4)
		return 2;
	l.bytes = strtoul(argv[2], NULL, 10) << 20;
	l.threads = strtoul(argv[3], NULL, 10);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]) && l.bytes && l.threads; i++)
		if (strcmp(argv[1], all[i].name) == 0) {
			printf("%.9g\n", all[i].measure(&l));
			return 0;
		}
	return 2;
}
