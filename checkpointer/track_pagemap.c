#include "checkpointer/track_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checkpointer/pagemap_scan.h"
#include "checkpointer/track_armed.h"
#include "store/base/cleanup.h"

/*
 * PAGEMAP_SCAN with userfaultfd write protection in asynchronous mode (Linux 6.7): the kernel resolves
 * the fault of the first write to a protected page by itself, and the scan reports such pages as written
 * while it protects them again. The descriptor must belong to the target's address space, so it is made
 * there, fetched with pidfd_getfd and closed there at once; the watchdog is the only holder, and when it
 * closes it (or dies) all protection is gone.
 */

static int enable(int uffd, struct err *err)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_WP_UNPOPULATED | UFFD_WP_ASYNC,
	};

	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return err_sys(err, "cannot enable asynchronous write protection");
	return 0;
}

/* ERR_GONE when the address space has ended (the process executed another program). */
static int protect(int uffd, uint64_t start, uint64_t end, struct err *err)
{
	struct uffdio_register reg = {
		.range = {.start = start, .len = end - start},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return err_sys(err, "cannot track writes to 0x%llx-0x%llx", (unsigned long long)start,
			       (unsigned long long)end);
	return 0;
}

static int fetch_fd(pid_t pid, int remote_fd, struct err *err)
{
	cleanup_fd int pidfd = tracee_pidfd(pid);
	int fd = -1;

	if (pidfd >= 0)
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, remote_fd, 0);
	return fd < 0 ? err_sys(err, "cannot fetch a descriptor of process %d", pid) : fd;
}

static int pagemap_begin(struct tracker *t, struct remote *remote, struct tracee *thread,
			 struct err *err)
{
	const uint64_t flags[] = {O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY};
	uint64_t close_arg[1];
	struct err fetch_err;
	long fd, ignored;

	if (remote_one(remote, thread, &fd, SYS_userfaultfd, flags, 1, err) < 0)
		return -1;
	if (fd < 0)
		return err_code(err, (int)-fd, "userfaultfd in process %d", t->pid);
	t->uffd = fetch_fd(t->pid, (int)fd, &fetch_err);
	close_arg[0] = (uint64_t)fd;
	if (remote_one(remote, thread, &ignored, SYS_close, close_arg, 1, err) < 0)
		return -1;
	if (t->uffd < 0) {
		*err = fetch_err;
		return -1;
	}
	t->quick = armed_scan_is_quick();
	return enable(t->uffd, err);
}

#define THERE (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)
#define REARM (PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC)

static int scan_armed(struct tracker *t, uint64_t start, uint64_t end, unsigned how,
		      struct scan_result *result, struct err *err)
{
	if (how & SCAN_FILE)
		return pagemap_scan(t->pagemap, start, end, REARM, false, result, err);
	return scan_armed_memory(t, start, end, how, result, err);
}

/* Not (wholly) armed: new, moved or changed by the job. All of it counts as written. Bits that a move has
 * left in the page table say nothing. */
static int scan_new(struct tracker *t, uint64_t start, uint64_t end, unsigned how,
		    struct scan_result *result, struct err *err)
{
	struct page_query all = {
		.flags = how & SCAN_ARM ? REARM : 0,
		.anyof = THERE,
		.categories = THERE | PAGE_IS_PFNZERO | (how & SCAN_FILE ? PAGE_IS_FILE : 0),
	};

	if (how & SCAN_ARM && protect(t->uffd, start, end, err) < 0) {
		/* EINVAL: a kind of mapping that cannot be protected; it stays a candidate as a whole.
		 * While the job runs: or it is not there any more. */
		if (err->sys_errno != EINVAL && err->sys_errno != EBUSY && err->sys_errno != ENOMEM)
			return -1;
		all.flags = 0;
	}
	return pagemap_query(t->pagemap, start, end, &all, true, result, err);
}

static int pagemap_scan_tracked(struct tracker *t, uint64_t start, uint64_t end, unsigned how,
				struct scan_result *result, struct err *err)
{
	struct scan_result found = {0};
	int done = scan_armed(t, start, end, how, &found, err);

	/* A job that runs may change its mappings under our hands: then it is armed the next time. */
	for (int tries = 0; done < 0 && err->sys_errno == EPERM && tries < 2; tries++) {
		found.n = 0;
		done = scan_new(t, start, end, tries ? how & ~(unsigned)SCAN_ARM : how, &found, err);
	}
	note_armed_guards(t, &found);
	for (size_t i = 0; done == 0 && i < found.n; i++)
		done = scan_result_add(result, &found.ranges[i], err);
	scan_result_free(&found);
	return done;
}

static int pagemap_peek(struct tracker *t, uint64_t start, uint64_t end, uint64_t *pages, struct err *err)
{
	static const struct page_query written = {
		.mask = PAGE_IS_WRITTEN, .anyof = THERE, .categories = THERE};
	struct scan_result found = {0};
	int done = pagemap_query(t->pagemap, start, end, &written, false, &found, err);

	for (size_t i = 0; done == 0 && i < found.n; i++)
		*pages += (found.ranges[i].end - found.ranges[i].start) / STORE_PAGE_SIZE;
	scan_result_free(&found);
	return done;
}

static int pagemap_rearm(struct tracker *t, struct err *err)
{
	return 0; /* the scan has done it */
}

static bool probe_pages(char *pages, size_t len, int uffd, int pagemap)
{
	uint64_t start = (uint64_t)(uintptr_t)pages;
	struct scan_result seen = {0};
	struct err ignored;
	uint64_t flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
	bool works = false;

	memset(pages, 1, len);
	if (enable(uffd, &ignored) == 0 && protect(uffd, start, start + len, &ignored) == 0 &&
	    pagemap_scan(pagemap, start, start + len, flags, false, &seen, &ignored) == 0) {
		seen.n = 0;
		*(volatile char *)pages = 2;
		works = pagemap_scan(pagemap, start, start + len, flags, false, &seen, &ignored) == 0 &&
			seen.n == 2 && seen.ranges[0].written && !seen.ranges[1].written;
	}
	scan_result_free(&seen);
	return works;
}

static bool pagemap_probe(void)
{
	size_t len = 2 * STORE_PAGE_SIZE;
	char *pages = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cleanup_fd int pagemap = -1;
	cleanup_fd int uffd =
		(int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct err ignored;
	bool works = false;

	if (pages == MAP_FAILED)
		return false;
	pagemap = open_pagemap(getpid(), &ignored);
	if (uffd >= 0 && pagemap >= 0)
		works = probe_pages(pages, len, uffd, pagemap);
	munmap(pages, len);
	return works;
}

const struct tracker_ops tracker_pagemap_ops = {
	.begin = pagemap_begin,
	.scan = pagemap_scan_tracked,
	.peek = pagemap_peek,
	.rearm = pagemap_rearm,
	.probe = pagemap_probe,
	.precopy = true,
};
