#include "checkpointer/reading.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "checkpointer/track_impl.h"
#include "store/base/io.h"

/* Bits of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_EXCLUSIVE (1ull << 56)
#define PAGEMAP_PRESENT	  (1ull << 63)
/* Runs that lie no further apart are looked up in one call: a word takes a fortieth of the time of a call. */
#define GAP 32u

void page_reading_end(struct page_reading *reading)
{
	if (reading->pagemap >= 0)
		close(reading->pagemap);
	if (reading->mem >= 0)
		close(reading->mem);
	reading->pagemap = reading->mem = -1;
}

static bool open_both(struct page_reading *reading)
{
	struct err ignored;
	char path[64];

	if (reading->failed || reading->mem >= 0)
		return !reading->failed;
	snprintf(path, sizeof(path), "/proc/%d/mem", reading->pid);
	reading->pagemap = open_pagemap(reading->pid, &ignored);
	reading->mem = reading->pagemap < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	reading->failed = reading->mem < 0;
	return !reading->failed;
}

/* How many words to read for run i of the slice, from `at` in it on, and for those behind it. */
static uint64_t window_size(const struct page_slice *slice, size_t i, uint64_t at)
{
	uint64_t end = slice->runs[i].first + slice->runs[i].n;

	for (++i; i < slice->n_runs && end - at < PAGE_READING_WINDOW; i++) {
		uint64_t first = slice->runs[i].first;

		if (first < end || first - end > GAP)
			break;
		end = first + slice->runs[i].n;
	}
	return end - at < PAGE_READING_WINDOW ? end - at : PAGE_READING_WINDOW;
}

/* What cannot be read counts as not there. */
static void read_window(struct page_reading *reading, uint64_t first, uint64_t n)
{
	ssize_t got = pread_upto(reading->pagemap, reading->window.words,
				 n * sizeof(*reading->window.words),
				 (off_t)(first * sizeof(*reading->window.words)));
	size_t there = got > 0 ? (size_t)got / sizeof(*reading->window.words) : 0;

	memset(reading->window.words + there, 0, (n - there) * sizeof(*reading->window.words));
	reading->window.first = first;
	reading->window.n = n;
}

/* Whether one of the pages of run i is mapped by others too. */
static bool is_shared(struct page_reading *reading, const struct page_slice *slice, size_t i)
{
	uint64_t at = slice->runs[i].first, end = at + slice->runs[i].n;

	if (reading->alone || !open_both(reading))
		return false;
	for (; at < end; at++) {
		uint64_t word;

		if (at - reading->window.first >= reading->window.n)
			read_window(reading, at, window_size(slice, i, at));
		word = reading->window.words[at - reading->window.first];
		if (word & PAGEMAP_PRESENT && !(word & PAGEMAP_EXCLUSIVE))
			return true;
	}
	return false;
}

static bool read_fast(pid_t pid, const struct iovec *remote, size_t n, char *data)
{
	struct iovec local = {.iov_base = data};

	for (size_t i = 0; i < n; i++)
		local.iov_len += remote[i].iov_len;
	errno = 0; /* a call that comes back early sets none */
	return n == 0 || process_vm_readv(pid, &local, 1, remote, n, 0) == (ssize_t)local.iov_len;
}

static bool read_gently(int mem, uint64_t addr, size_t len, char *data)
{
	ssize_t got = pread_upto(mem, data, len, (off_t)addr);

	if (got >= 0 && (size_t)got < len)
		errno = EFAULT;
	return got == (ssize_t)len;
}

bool page_reading_slice(struct page_reading *reading, const struct page_slice *slice, char *data)
{
	struct iovec waiting[SLICE_PAGES];
	char *from = data; /* where the waiting ones go */
	size_t n = 0;

	reading->window.n = 0;
	for (size_t i = 0; i < slice->n_runs; i++) {
		uint64_t addr = slice->runs[i].first * STORE_PAGE_SIZE;
		size_t len = slice->runs[i].n * STORE_PAGE_SIZE;

		if (!is_shared(reading, slice, i)) {
			waiting[n++] = (struct iovec){(void *)addr, len};
			data += len;
			continue;
		}
		if (!read_fast(reading->pid, waiting, n, from) ||
		    !read_gently(reading->mem, addr, len, data))
			return false;
		n = 0;
		from = data += len;
	}
	return read_fast(reading->pid, waiting, n, from);
}
