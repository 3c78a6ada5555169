#include "recovery/content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"

#define PIECE_PAGES 512u
#define PIECE_BYTES (PIECE_PAGES * STORE_PAGE_SIZE)

void page_runs_clear(struct page_runs *runs)
{
	free(runs->list);
	*runs = (struct page_runs){0};
}

static int add_difference(struct page_runs *runs, uint64_t page, enum page_kind kind,
			  struct err *err)
{
	struct page_run *last = runs->n ? &runs->list[runs->n - 1] : NULL;

	if (last && last->kind == kind && last->first + last->n == page) {
		last->n++;
		return 0;
	}
	if (runs->n == runs->room) {
		size_t room = runs->room ? runs->room * 2 : 64;
		struct page_run *grown = realloc(runs->list, room * sizeof(*grown));

		if (!grown)
			return err_set(err, ERR_SYSTEM, "out of memory");
		runs->list = grown;
		runs->room = room;
	}
	runs->list[runs->n++] = (struct page_run){page, 1, kind};
	return 0;
}

static uint64_t page_count(uint64_t bytes)
{
	return bytes / STORE_PAGE_SIZE + (bytes % STORE_PAGE_SIZE != 0);
}

/* The next run at or after page `at` of the file: 1, 0: none before its end, -1. */
static int next_run(const struct stored_content *c, struct page_reader *reader, uint64_t at,
		    struct page_run *ret, struct err *err)
{
	uint64_t end = page_count(c->size);
	int found = page_reader_next(reader, c->base + at, ret, err);

	if (found <= 0)
		return found;
	if (ret->first < c->base || ret->first - c->base >= end)
		return 0;
	ret->first -= c->base;
	if (ret->n > end - ret->first)
		ret->n = end - ret->first;
	return 1;
}

/* ---- comparing ----------------------------------------------------------------------------- */

struct compare {
	const struct stored_content *content;
	struct page_runs *runs;
	struct page_reader *reader;
	int fd; /* -1: there is no file; everything differs */
	char *stored, *found;
};

/* Compares n pages from first with c->stored (all zeroes where kind is not PAGE_DATA). */
static int compare_piece(struct compare *c, uint64_t first, size_t n, enum page_kind kind,
			 struct err *err)
{
	uint64_t offset = first * STORE_PAGE_SIZE;
	size_t len = n * STORE_PAGE_SIZE;
	ssize_t got = 0;

	if (offset + len > c->content->size)
		len = (size_t)(c->content->size - offset);
	if (c->fd >= 0)
		got = pread_upto(c->fd, c->found, len, (off_t)offset);
	if (got < 0)
		return err_sys(err, "read");
	for (size_t i = 0; i < n; i++) {
		size_t at = i * STORE_PAGE_SIZE;
		size_t part = len - at < STORE_PAGE_SIZE ? len - at : STORE_PAGE_SIZE;
		bool there = (size_t)got >= at + part;

		/* What is missing at the end and zero comes with the size. */
		if (there ? memcmp(c->found + at, c->stored + at, part) != 0
			  : kind == PAGE_DATA || (size_t)got > at) {
			if (add_difference(c->runs, first + i, kind, err) < 0)
				return -1;
		}
	}
	return 0;
}

static int compare_data(struct compare *c, uint64_t first, uint64_t end, struct err *err)
{
	while (first < end) {
		size_t n = end - first < PIECE_PAGES ? (size_t)(end - first) : PIECE_PAGES;

		if (page_reader_read(c->reader, c->content->base + first, n, c->stored, err) < 0 ||
		    compare_piece(c, first, n, PAGE_DATA, err) < 0)
			return -1;
		first += n;
	}
	return 0;
}

/* Pages that must read as zeroes; only where the file has data there is anything to look at. */
static int compare_zeroes(struct compare *c, uint64_t first, uint64_t end, struct err *err)
{
	memset(c->stored, 0, PIECE_BYTES);
	while (first < end && c->fd >= 0) {
		off_t data = lseek(c->fd, (off_t)(first * STORE_PAGE_SIZE), SEEK_DATA);
		size_t n;

		if (data < 0 && errno == ENXIO) /* nothing but a hole up to the end */
			return 0;
		if (data > 0 && (uint64_t)data / STORE_PAGE_SIZE > first)
			first = (uint64_t)data / STORE_PAGE_SIZE;
		if (first >= end)
			return 0;
		n = end - first < PIECE_PAGES ? (size_t)(end - first) : PIECE_PAGES;
		if (compare_piece(c, first, n, PAGE_ZERO, err) < 0)
			return -1;
		first += n;
	}
	return 0;
}

static int compare_all(struct compare *c, struct err *err)
{
	uint64_t end = page_count(c->content->size), at = 0;

	while (at < end) {
		struct page_run run;
		int found = next_run(c->content, c->reader, at, &run, err);

		if (found < 0)
			return -1;
		if (!found)
			run = (struct page_run){end, 0, PAGE_ZERO};
		if (compare_zeroes(c, at, run.first, err) < 0)
			return -1;
		at = run.first + run.n;
		if (run.kind == PAGE_DATA ? compare_data(c, run.first, at, err) < 0
					  : compare_zeroes(c, run.first, at, err) < 0)
			return -1;
	}
	return 0;
}

int content_compare(const struct stored_content *content, int fd, struct page_runs *ret,
		    struct err *err)
{
	cleanup_free char *stored = malloc(PIECE_BYTES), *found = malloc(PIECE_BYTES);
	struct compare c = {
		.content = content,
		.runs = ret,
		.fd = fd,
		.stored = stored,
		.found = found,
	};
	int result;

	if (!stored || !found)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (page_reader_open(&c.reader, content->store, content->root, err) < 0)
		return -1;
	result = compare_all(&c, err);
	page_reader_close(c.reader);
	return result;
}

/* ---- writing ------------------------------------------------------------------------------- */

static int reserve(const struct page_runs *runs, int fd, uint64_t size, struct err *err)
{
	for (size_t i = 0; i < runs->n; i++) {
		const struct page_run *run = &runs->list[i];
		uint64_t from = run->first * STORE_PAGE_SIZE, to = from + run->n * STORE_PAGE_SIZE;

		if (run->kind != PAGE_DATA)
			continue;
		if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)from,
			      (off_t)((to < size ? to : size) - from)) == 0)
			continue;
		if (errno == EOPNOTSUPP || errno == ENOSYS)
			return 0;
		return err_sys(err, "room for its content");
	}
	return 0;
}

static int write_zeroes(int fd, uint64_t from, uint64_t to, char *buf, struct err *err)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		      (off_t)(to - from)) == 0)
		return 0;
	memset(buf, 0, PIECE_BYTES);
	for (uint64_t at = from; at < to; at += PIECE_BYTES) {
		size_t len = to - at < PIECE_BYTES ? (size_t)(to - at) : PIECE_BYTES;

		if (pwrite_full(fd, buf, len, (off_t)at) < 0)
			return err_sys(err, "write");
	}
	return 0;
}

static int write_data(const struct stored_content *c, struct page_reader *reader, int fd,
		      uint64_t from, uint64_t to, char *buf, struct err *err)
{
	for (uint64_t at = from; at < to; at += PIECE_BYTES) {
		size_t len = to - at < PIECE_BYTES ? (size_t)(to - at) : PIECE_BYTES;
		size_t pages = (len + STORE_PAGE_SIZE - 1) / STORE_PAGE_SIZE;

		if (page_reader_read(reader, c->base + at / STORE_PAGE_SIZE, pages, buf, err) < 0)
			return -1;
		if (pwrite_full(fd, buf, len, (off_t)at) < 0)
			return err_sys(err, "write");
	}
	return 0;
}

static int write_run(const struct stored_content *c, struct page_reader *reader, int fd,
		     const struct page_run *run, char *buf, struct err *err)
{
	uint64_t from = run->first * STORE_PAGE_SIZE, to = from + run->n * STORE_PAGE_SIZE;

	to = to < c->size ? to : c->size;
	return run->kind == PAGE_DATA ? write_data(c, reader, fd, from, to, buf, err)
				      : write_zeroes(fd, from, to, buf, err);
}

static int write_runs(const struct stored_content *c, int fd, const struct page_runs *runs,
		      struct err *err)
{
	cleanup_free char *buf = malloc(PIECE_BYTES);
	struct page_reader *reader;
	int result = 0;

	if (!buf)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (page_reader_open(&reader, c->store, c->root, err) < 0)
		return -1;
	for (size_t i = 0; i < runs->n && result == 0; i++)
		result = write_run(c, reader, fd, &runs->list[i], buf, err);
	page_reader_close(reader);
	return result;
}

int content_write(const struct stored_content *content, int fd, const struct page_runs *runs,
		  struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, "size");
	if (reserve(runs, fd, content->size, err) < 0) {
		if (ftruncate(fd, st.st_size) < 0) /* gives back what lies behind its end */
			log_debug("size: %s", strerror(errno));
		return -1;
	}
	if (ftruncate(fd, (off_t)content->size) < 0)
		return err_sys(err, "size");
	return write_runs(content, fd, runs, err);
}

/* hugetlbfs knows no write(2): one of its pages after the other is mapped. */
static int fill_huge(const struct stored_content *c, struct page_reader *reader, int fd,
		     const struct page_run *run, struct err *err)
{
	uint64_t pages = c->huge_page / STORE_PAGE_SIZE, at = run->first, end = run->first + run->n;

	while (at < end) {
		uint64_t begin = at / pages * pages, n = begin + pages < end ? begin + pages - at : end - at;
		char *p = mmap(NULL, c->huge_page, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			       (off_t)(begin * STORE_PAGE_SIZE));
		int result;

		if (p == MAP_FAILED)
			return err_sys(err, "huge pages (vm.nr_hugepages sets some aside)");
		result = page_reader_read(reader, at, n, p + (at - begin) * STORE_PAGE_SIZE, err);
		munmap(p, c->huge_page);
		if (result < 0)
			return -1;
		at += n;
	}
	return 0;
}

static int fill_runs(const struct stored_content *content, struct page_reader *reader, int fd,
		     char *buf, struct err *err)
{
	struct page_run run;
	uint64_t at = 0;
	int found;

	while ((found = next_run(content, reader, at, &run, err)) > 0) {
		at = run.first + run.n;
		if (run.kind == PAGE_DATA &&
		    (content->huge_page ? fill_huge(content, reader, fd, &run, err)
					: write_run(content, reader, fd, &run, buf, err)) < 0)
			return -1;
	}
	return found;
}

int content_fill(const struct stored_content *content, int fd, struct err *err)
{
	cleanup_free char *buf = malloc(PIECE_BYTES);
	struct page_reader *reader;
	int result;

	if (!buf)
		return err_set(err, ERR_SYSTEM, "out of memory");
	if (ftruncate(fd, (off_t)content->size) < 0)
		return err_sys(err, "size");
	if (page_reader_open(&reader, content->store, content->root, err) < 0)
		return -1;
	result = fill_runs(content, reader, fd, buf, err);
	page_reader_close(reader);
	return result;
}

static int load_runs(const struct stored_content *c, struct page_reader *reader, char *memory, struct err *err)
{
	struct page_run run;
	uint64_t at = 0;
	int found;

	while ((found = next_run(c, reader, at, &run, err)) > 0) {
		at = run.first + run.n;
		for (uint64_t first = run.first; run.kind == PAGE_DATA && first < at; first += PIECE_PAGES) {
			size_t n = at - first < PIECE_PAGES ? (size_t)(at - first) : PIECE_PAGES;

			if (page_reader_read(reader, c->base + first, n, memory + first * STORE_PAGE_SIZE, err) < 0)
				return -1;
		}
	}
	return found;
}

int content_load(const struct stored_content *content, void *memory, struct err *err)
{
	struct page_reader *reader;
	int result;

	if (page_reader_open(&reader, content->store, content->root, err) < 0)
		return -1;
	result = load_runs(content, reader, memory, err);
	page_reader_close(reader);
	return result;
}
