#include "checkpointer/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "checkpointer/pagemap_scan.h"
#include "checkpointer/track_impl.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"

#define SCAN_VEC 4096u

void scan_result_free(struct scan_result *result)
{
	free(result->ranges);
	memset(result, 0, sizeof(*result));
}

int scan_result_room(struct scan_result *result, struct err *err)
{
	size_t room = result->room ? result->room * 2 : 256;
	struct scan_range *more;

	if (result->n < result->room)
		return 0;
	more = reallocarray(result->ranges, room, sizeof(*more));
	if (!more)
		return err_sys(err, "list of changed pages");
	result->ranges = more;
	result->room = room;
	return 0;
}

int scan_result_add(struct scan_result *result, const struct scan_range *range, struct err *err)
{
	struct scan_range *last = result->n ? &result->ranges[result->n - 1] : NULL;

	if (last && last->end == range->start && last->written == range->written &&
	    last->zero == range->zero && last->file == range->file && last->guard == range->guard &&
	    last->absent == range->absent) {
		last->end = range->end;
		return 0;
	}
	if (scan_result_room(result, err) < 0)
		return -1;
	result->ranges[result->n++] = *range;
	return 0;
}

bool scan_cursor_next(struct scan_cursor *cursor, uint64_t most, struct scan_range *ret)
{
	if (cursor->i == cursor->ranges->n)
		return false;
	*ret = cursor->ranges->ranges[cursor->i];
	if (cursor->at)
		ret->start = cursor->at;
	cursor->at = ret->end - ret->start > most ? ret->start + most : 0;
	if (cursor->at)
		ret->end = cursor->at;
	else
		cursor->i++;
	return true;
}

/* The index of the first range from `i` on that ends behind `at`. */
static size_t skip_to(const struct scan_result *r, size_t i, uint64_t at)
{
	while (i < r->n && r->ranges[i].end <= at)
		i++;
	return i;
}

/* Whether range i holds `at`; where that changes next is at *next at the latest. */
static bool holds(const struct scan_result *r, size_t i, uint64_t at, uint64_t *next)
{
	bool inside = i < r->n && r->ranges[i].start <= at;
	uint64_t edge = i == r->n ? *next : inside ? r->ranges[i].end : r->ranges[i].start;

	if (edge < *next)
		*next = edge;
	return inside;
}

int scan_result_complement(struct scan_result *result, uint64_t start, uint64_t end,
			   const struct scan_result *absent, const struct scan_result *written,
			   struct err *err)
{
	size_t a = 0, w = 0;

	for (uint64_t at = start, next; at < end; at = next) {
		struct scan_range range = {.start = at};
		bool special;

		next = end;
		a = skip_to(absent, a, at);
		w = skip_to(written, w, at);
		special = holds(absent, a, at, &next);
		range.written = holds(written, w, at, &next);
		range.end = next;
		if (special && absent->ranges[a].absent)
			continue;
		range.guard = special && absent->ranges[a].guard;
		range.zero = range.written && written->ranges[w].zero;
		if (scan_result_add(result, &range, err) < 0)
			return -1;
	}
	return 0;
}

int open_pagemap(pid_t pid, struct err *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? err_sys(err, "cannot open %s", path) : fd;
}

static int add_regions(const struct page_region *vec, long n, bool all_written,
		       struct scan_result *result, struct err *err)
{
	for (long i = 0; i < n; i++) {
		const struct scan_range range = {
			.start = vec[i].start,
			.end = vec[i].end,
			.written = all_written || (vec[i].categories & PAGE_IS_WRITTEN),
			.zero = vec[i].categories & PAGE_IS_PFNZERO,
			.absent = !(vec[i].categories & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)),
			.file = vec[i].categories & PAGE_IS_FILE,
			.guard = vec[i].categories & PAGE_IS_GUARD,
		};

		if (scan_result_add(result, &range, err) < 0)
			return -1;
	}
	return 0;
}

int pagemap_query(int pagemap, uint64_t start, uint64_t end, const struct page_query *query,
		  bool all_written, struct scan_result *result, struct err *err)
{
	/* vec_len is never 0: kernels before 2025 then write through a null pointer's size. */
	struct page_region vec[SCAN_VEC];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = query->flags,
		.start = start,
		.end = end,
		.vec = (uint64_t)(uintptr_t)vec,
		.vec_len = SCAN_VEC,
		.category_inverted = query->inverted,
		.category_mask = query->mask,
		.category_anyof_mask = query->anyof,
		.return_mask = query->categories | (query->only ? 0 : PAGE_IS_GUARD),
	};

	while (arg.start < end) {
		long n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		/* Before Linux 6.15 a guard region cannot be told from a page that is swapped out. */
		if (n < 0 && errno == EINVAL && arg.return_mask & PAGE_IS_GUARD) {
			arg.return_mask &= ~(uint64_t)PAGE_IS_GUARD;
			continue;
		}
		if (n < 0)
			return err_sys(err, "cannot scan the page table");
		if (add_regions(vec, n, all_written, result, err) < 0)
			return -1;
		if (arg.walk_end <= arg.start)
			break;
		arg.start = arg.walk_end;
	}
	return 0;
}

int pagemap_scan(int pagemap, uint64_t start, uint64_t end, uint64_t flags, bool all_written,
		 struct scan_result *result, struct err *err)
{
	const struct page_query all = {
		.flags = flags,
		.anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.categories = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | PAGE_IS_FILE |
			      PAGE_IS_WRITTEN,
	};

	return pagemap_query(pagemap, start, end, &all, all_written, result, err);
}

/* /proc/PID/pagemap, one 64-bit word a page (Documentation/admin-guide/mm/pagemap.rst). */
#define PM_PRESENT    (1ull << 63)
#define PM_SWAPPED    (1ull << 62)
#define PM_FILE       (1ull << 61)
#define PM_GUARD      (1ull << 58) /* Linux 6.15 */
#define PM_SOFT_DIRTY (1ull << 55)
#define WORDS_AT_ONCE 8192u

int pagemap_read(int pagemap, uint64_t start, uint64_t end, bool soft_dirty,
		 struct scan_result *result, struct err *err)
{
	cleanup_free uint64_t *words = malloc(WORDS_AT_ONCE * sizeof(*words));

	if (!words)
		return err_sys(err, "page map");
	while (start < end) {
		size_t n = (end - start) / STORE_PAGE_SIZE;

		if (n > WORDS_AT_ONCE)
			n = WORDS_AT_ONCE;
		if (pread_upto(pagemap, words, n * sizeof(*words),
			       (off_t)(start / STORE_PAGE_SIZE * sizeof(*words))) !=
		    (ssize_t)(n * sizeof(*words)))
			return err_code(err, errno ? errno : ESRCH, "cannot read the page map");
		for (size_t i = 0; i < n; i++, start += STORE_PAGE_SIZE) {
			const struct scan_range range = {
				.start = start,
				.end = start + STORE_PAGE_SIZE,
				.written = !soft_dirty || (words[i] & PM_SOFT_DIRTY),
				.file = words[i] & PM_FILE,
				.guard = words[i] & PM_GUARD,
			};

			if ((words[i] & (PM_PRESENT | PM_SWAPPED | PM_GUARD)) &&
			    scan_result_add(result, &range, err) < 0)
				return -1;
		}
	}
	return 0;
}

int scan_with(int pagemap, uint64_t start, uint64_t end, struct scan_result *result, struct err *err)
{
	if (pagemap_scan(pagemap, start, end, 0, true, result, err) == 0)
		return 0;
	/* Kernels before 6.7 do not know the ioctl. */
	if (err->sys_errno != ENOTTY && err->sys_errno != EINVAL)
		return -1;
	return pagemap_read(pagemap, start, end, false, result, err);
}

int scan_populated(pid_t pid, uint64_t start, uint64_t end, struct scan_result *result,
		   struct err *err)
{
	cleanup_fd int pagemap = open_pagemap(pid, err);

	return pagemap < 0 ? -1 : scan_with(pagemap, start, end, result, err);
}

/* ---- dispatch ------------------------------------------------------------------------------ */

static const struct tracker_ops *const all_ops[] = {
	[TRACKER_PAGEMAP] = &tracker_pagemap_ops,
	[TRACKER_SOFT_DIRTY] = &tracker_softdirty_ops,
	[TRACKER_NONE] = &tracker_none_ops,
};

int tracker_new(struct tracker **ret, enum tracker_kind kind, pid_t pid, struct remote *remote,
		struct tracee *thread, struct err *err)
{
	struct tracker *t = calloc(1, sizeof(*t));

	if (!t)
		return err_sys(err, "tracker");
	t->kind = kind;
	t->pid = pid;
	t->uffd = -1;
	t->pagemap = open_pagemap(pid, err);
	t->ops = all_ops[kind];
	if (t->pagemap < 0 || t->ops->begin(t, remote, thread, err) < 0) {
		tracker_free(t);
		return -1;
	}
	*ret = t;
	return 0;
}

void tracker_free(struct tracker *tracker)
{
	if (!tracker)
		return;
	if (tracker->pagemap >= 0)
		close(tracker->pagemap);
	if (tracker->uffd >= 0)
		close(tracker->uffd);
	scan_result_free(&tracker->guards);
	free(tracker);
}

enum tracker_kind tracker_kind_of(const struct tracker *tracker)
{
	return tracker->kind;
}

bool tracker_can_precopy(const struct tracker *tracker)
{
	return tracker->ops->precopy;
}

int tracker_scan(struct tracker *tracker, uint64_t start, uint64_t end, unsigned how,
		 struct scan_result *result, struct err *err)
{
	return tracker->ops->scan(tracker, start, end, how, result, err);
}

int tracker_peek(struct tracker *tracker, uint64_t start, uint64_t end, uint64_t *pages, struct err *err)
{
	return tracker->ops->peek(tracker, start, end, pages, err);
}

int tracker_rearm(struct tracker *tracker, struct err *err)
{
	return tracker->ops->rearm(tracker, err);
}

const char *tracker_name(enum tracker_kind kind)
{
	static const char *const names[] = {
		[TRACKER_AUTO] = "auto",
		[TRACKER_PAGEMAP] = "pagemap",
		[TRACKER_SOFT_DIRTY] = "soft-dirty",
		[TRACKER_NONE] = "none",
	};

	return names[kind];
}

enum tracker_kind checkpointer_probe_tracker(enum tracker_kind wanted, const char **ret_why)
{
	static const char *const found[] = {
		[TRACKER_PAGEMAP] = "PAGEMAP_SCAN with userfaultfd write protection works",
		[TRACKER_SOFT_DIRTY] = "soft-dirty bits work; PAGEMAP_SCAN does not",
		[TRACKER_NONE] = "neither PAGEMAP_SCAN nor soft-dirty bits work; every page is hashed",
	};
	enum tracker_kind kind = TRACKER_NONE;

	if (wanted == TRACKER_NONE) {
		*ret_why = "every page is hashed, as asked for";
		return TRACKER_NONE;
	}
	if (wanted != TRACKER_SOFT_DIRTY && tracker_pagemap_ops.probe())
		kind = TRACKER_PAGEMAP;
	else if (wanted != TRACKER_PAGEMAP && tracker_softdirty_ops.probe())
		kind = TRACKER_SOFT_DIRTY;
	*ret_why = found[kind];
	if (kind == TRACKER_NONE && wanted == TRACKER_SOFT_DIRTY)
		*ret_why = "soft-dirty bits do not work on this kernel; every page is hashed";
	else if (kind == TRACKER_NONE && wanted == TRACKER_PAGEMAP)
		*ret_why = "PAGEMAP_SCAN does not work on this kernel; every page is hashed";
	return kind;
}
