#include "checkpointer/track_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/base/cleanup.h"

/*
 * Soft-dirty bits (Linux 3.11, CONFIG_MEM_SOFT_DIRTY): "4" to clear_refs clears them, a write sets bit
 * 55 of the page's pagemap word. On kernels built without it the write to clear_refs succeeds all the
 * same and nothing is ever marked, hence the probe.
 */

static int clear_bits(pid_t pid, struct err *err)
{
	char path[64];
	cleanup_fd int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "4", 1) != 1)
		return err_sys(err, "cannot clear soft-dirty bits through %s", path);
	return 0;
}

static int softdirty_begin(struct tracker *t, struct remote *remote, struct tracee *thread,
			   struct err *err)
{
	return 0;
}

static int softdirty_scan(struct tracker *t, uint64_t start, uint64_t end, unsigned how,
			  struct scan_result *result, struct err *err)
{
	return pagemap_read(t->pagemap, start, end, t->armed_once, result, err);
}

static int softdirty_rearm(struct tracker *t, struct err *err)
{
	if (clear_bits(t->pid, err) < 0)
		return -1;
	t->armed_once = true;
	return 0;
}

/* Two pages: after clearing, one is written; exactly that one must be marked. */
static bool softdirty_probe(void)
{
	size_t len = 2 * STORE_PAGE_SIZE;
	char *pages = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct scan_result seen = {0};
	cleanup_fd int pagemap = -1;
	struct err ignored;
	bool works = false;

	if (pages == MAP_FAILED)
		return false;
	memset(pages, 1, len);
	pagemap = open_pagemap(getpid(), &ignored);
	if (pagemap >= 0 && clear_bits(getpid(), &ignored) == 0) {
		*(volatile char *)pages = 2;
		works = pagemap_read(pagemap, (uint64_t)(uintptr_t)pages,
				     (uint64_t)(uintptr_t)pages + len, true, &seen, &ignored) == 0 &&
			seen.n == 2 && seen.ranges[0].written && !seen.ranges[1].written;
	}
	scan_result_free(&seen);
	munmap(pages, len);
	return works;
}

const struct tracker_ops tracker_softdirty_ops = {
	.begin = softdirty_begin,
	.scan = softdirty_scan,
	.rearm = softdirty_rearm,
	.probe = softdirty_probe,
};
