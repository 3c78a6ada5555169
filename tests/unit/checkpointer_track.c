/*
 * The three trackers: chosen by behaviour, and telling exactly what was written.
 */
#include "unit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpointer/track.h"
#include "checkpointer/track_impl.h"

#define PAGES 16u

/* A child that writes page N when shared[0] says N+1. */
struct child {
	pid_t pid;
	char *memory;
	volatile int *shared;
};

static struct child start(void)
{
	struct child c;

	c.memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	c.shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	c.pid = fork();
	if (c.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memset(c.memory, 1, (PAGES - 2) * 4096); /* the last two stay unpopulated */
		c.shared[1] = 1;
		for (;;) {
			int n = c.shared[0];

			if (n) {
				c.memory[(n - 1) * 4096]++;
				c.shared[0] = 0;
			}
			usleep(500);
		}
	}
	while (!c.shared[1])
		usleep(500);
	return c;
}

static void write_page(struct child *c, int page)
{
	c->shared[0] = page + 1;
	while (c->shared[0])
		usleep(500);
}

static void stop(struct child *c)
{
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
	munmap(c->memory, PAGES * 4096);
	munmap((void *)c->shared, 4096);
}

static struct tracker *begin(struct child *c, enum tracker_kind kind)
{
	struct tracker *tracker;
	struct tracee t;
	struct remote r;
	struct err err;

	assert_int_equal(tracee_seize(&t, c->pid, c->pid, &err), 0);
	assert_int_equal(tracee_wait_stop(&t, &err), 0);
	assert_int_equal(remote_begin(&r, &t, 0, REMOTE_ROOM, &err), 0);
	assert_int_equal(tracker_new(&tracker, kind, c->pid, &r, &t, &err), 0);
	assert_int_equal(remote_end(&r, &t, &err), 0);
	assert_int_equal(tracee_detach(&t, &err), 0);
	return tracker;
}

/* Bit set of pages reported as written; *populated likewise. */
static unsigned scan(struct child *c, struct tracker *tracker, bool arm, unsigned *populated)
{
	uint64_t base = (uint64_t)(uintptr_t)c->memory;
	struct scan_result r = {0};
	unsigned written = 0;
	struct err err;

	*populated = 0;
	assert_int_equal(tracker_scan(tracker, base, base + PAGES * 4096, arm ? SCAN_ARM : 0, &r, &err), 0);
	assert_int_equal(tracker_rearm(tracker, &err), 0);
	for (size_t i = 0; i < r.n; i++)
		for (uint64_t at = r.ranges[i].start; at < r.ranges[i].end; at += 4096) {
			*populated |= 1u << (at - base) / 4096;
			if (r.ranges[i].written)
				written |= 1u << (at - base) / 4096;
		}
	scan_result_free(&r);
	return written;
}

#define ALL_POPULATED ((1u << (PAGES - 2)) - 1)

static void pagemap_tells_what_was_written(void **state)
{
	const char *why;
	struct tracker *tracker;
	struct child c;
	unsigned populated;

	if (checkpointer_probe_tracker(TRACKER_PAGEMAP, &why) != TRACKER_PAGEMAP)
		skip();
	c = start();
	tracker = begin(&c, TRACKER_PAGEMAP);
	assert_int_equal(scan(&c, tracker, true, &populated), ALL_POPULATED);
	assert_int_equal(populated, ALL_POPULATED);
	assert_int_equal(scan(&c, tracker, false, &populated), 0);
	write_page(&c, 3);
	write_page(&c, 15);
	assert_int_equal(scan(&c, tracker, false, &populated), 1u << 3 | 1u << 15);
	assert_int_equal(populated, ALL_POPULATED | 1u << 15);
	assert_int_equal(scan(&c, tracker, false, &populated), 0);
	tracker_free(tracker);
	stop(&c);
}

static void a_mapping_that_was_never_armed_counts_as_written(void **state)
{
	const char *why;
	struct tracker *tracker;
	struct child c;
	unsigned populated;

	if (checkpointer_probe_tracker(TRACKER_PAGEMAP, &why) != TRACKER_PAGEMAP)
		skip();
	c = start();
	tracker = begin(&c, TRACKER_PAGEMAP);
	assert_int_equal(scan(&c, tracker, false, &populated), ALL_POPULATED);
	assert_int_equal(scan(&c, tracker, false, &populated), ALL_POPULATED);
	tracker_free(tracker);
	stop(&c);
}

static void without_tracking_every_populated_page_is_a_candidate(void **state)
{
	struct child c = start();
	struct tracker *tracker = begin(&c, TRACKER_NONE);
	unsigned populated;

	for (int i = 0; i < 2; i++) {
		assert_int_equal(scan(&c, tracker, true, &populated), ALL_POPULATED);
		assert_int_equal(populated, ALL_POPULATED);
	}
	tracker_free(tracker);
	stop(&c);
}

/* Whatever the kernel answers to clear_refs, the probe must agree with what really happens to a bit. */
static void soft_dirty_is_judged_by_behaviour(void **state)
{
	const char *why;
	bool works = checkpointer_probe_tracker(TRACKER_SOFT_DIRTY, &why) == TRACKER_SOFT_DIRTY;
	struct tracker *tracker;
	struct child c = start();
	unsigned populated, written;

	tracker = begin(&c, TRACKER_SOFT_DIRTY);
	assert_int_equal(scan(&c, tracker, true, &populated), ALL_POPULATED);
	write_page(&c, 5);
	written = scan(&c, tracker, true, &populated);
	assert_int_equal(works, written == 1u << 5);
	assert_true(strlen(why) > 0);
	tracker_free(tracker);
	stop(&c);
}

static void the_old_page_map_and_the_scan_agree(void **state)
{
	struct child c = start();
	uint64_t base = (uint64_t)(uintptr_t)c.memory;
	struct scan_result scanned = {0}, read = {0};
	struct err err;
	int pagemap = open_pagemap(c.pid, &err);

	assert_true(pagemap >= 0);
	assert_int_equal(scan_populated(c.pid, base, base + PAGES * 4096, &scanned, &err), 0);
	assert_int_equal(pagemap_read(pagemap, base, base + PAGES * 4096, false, &read, &err), 0);
	assert_int_equal(scanned.n, read.n);
	for (size_t i = 0; i < read.n; i++) {
		assert_int_equal(scanned.ranges[i].start, read.ranges[i].start);
		assert_int_equal(scanned.ranges[i].end, read.ranges[i].end);
	}
	close(pagemap);
	scan_result_free(&scanned);
	scan_result_free(&read);
	stop(&c);
}

/* What is left out must be just what was not written, whether it is scanned with a gap of no pages or not. */
static void only_what_was_written_on_request(void **state)
{
	const char *why;
	struct scan_result r = {0};
	struct tracker *tracker;
	struct child c;
	uint64_t base;
	unsigned populated;
	struct err err;

	if (checkpointer_probe_tracker(TRACKER_PAGEMAP, &why) != TRACKER_PAGEMAP)
		skip();
	c = start();
	base = (uint64_t)(uintptr_t)c.memory;
	tracker = begin(&c, TRACKER_PAGEMAP);
	scan(&c, tracker, true, &populated);
	write_page(&c, 4);
	write_page(&c, 5);
	assert_int_equal(tracker_scan(tracker, base, base + PAGES * 4096, SCAN_WRITTEN, &r, &err), 0);
	assert_int_equal(r.n, 1);
	assert_int_equal(r.ranges[0].start, base + 4 * 4096);
	assert_int_equal(r.ranges[0].end, base + 6 * 4096);
	assert_true(r.ranges[0].written);
	assert_int_equal(scan(&c, tracker, false, &populated), 0);
	assert_int_equal(populated, ALL_POPULATED);
	scan_result_free(&r);
	tracker_free(tracker);
	stop(&c);
}

/* ---- a mapping that is big enough for the quick way -------------------------------------------- */

#define BIG	   (64ull << 20)
#define BIG_ALIGN  (2ull << 20)
#define GUARD_PAGE 5000u

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum step { STEP_NONE, STEP_WRITE, STEP_DROP, STEP_TOUCH, STEP_GUARD, STEP_GUARD_FAILED };

static int take_step(char *memory, int step)
{
	switch (step) {
	case STEP_WRITE:
		memory[5 * 4096] = memory[10000 * 4096] = 2;
		break;
	case STEP_DROP: /* within a page table, and three of them as a whole */
		madvise(memory + 7 * 4096, 4096, MADV_DONTNEED);
		madvise(memory + 1024 * 4096, 1536 * 4096, MADV_DONTNEED);
		break;
	case STEP_TOUCH:
		memory[2000 * 4096] = 3;
		break;
	case STEP_GUARD:
		if (madvise(memory + GUARD_PAGE * 4096, 4096, MADV_GUARD_INSTALL) < 0)
			return STEP_GUARD_FAILED;
		break;
	case STEP_GUARD_FAILED: /* until it has been seen */
		return step;
	}
	return STEP_NONE;
}

static struct child start_big(void)
{
	struct child c;
	char *all = mmap(NULL, BIG + BIG_ALIGN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	all += BIG_ALIGN - (uintptr_t)all % BIG_ALIGN;
	c.memory = mmap(all, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	madvise(c.memory, BIG, MADV_NOHUGEPAGE);
	c.shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	c.pid = fork();
	if (c.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		memset(c.memory, 1, BIG);
		for (c.shared[1] = 1;; usleep(500)) {
			int asked = c.shared[0];

			if (asked)
				c.shared[0] = take_step(c.memory, asked);
		}
	}
	while (!c.shared[1])
		usleep(500);
	return c;
}

/* False: the kernel does not know guard regions. */
static bool step(struct child *c, enum step step)
{
	c->shared[0] = (int)step;
	while (c->shared[0] == (int)step)
		usleep(500);
	return c->shared[0] == STEP_NONE;
}

static void scan_big(struct child *c, struct tracker *tracker, struct scan_result *ret)
{
	uint64_t base = (uint64_t)(uintptr_t)c->memory;
	struct err err;

	ret->n = 0;
	assert_int_equal(tracker_scan(tracker, base, base + BIG, SCAN_ARM | SCAN_STILL, ret, &err), 0);
}

/* All of it is there but for the holes (pages [first, end)); only `written` has been written. */
static void check_big(struct child *c, struct tracker *tracker, const unsigned *written, size_t n_written,
		      const unsigned (*holes)[2], size_t n_holes)
{
	uint64_t base = (uint64_t)(uintptr_t)c->memory;
	struct scan_result r = {0};
	size_t seen = 0;
	uint64_t there = BIG / 4096;

	scan_big(c, tracker, &r);
	for (size_t i = 0; i < r.n; i++) {
		uint64_t first = (r.ranges[i].start - base) / 4096, end = (r.ranges[i].end - base) / 4096;

		for (size_t k = 0; k < n_holes; k++)
			assert_true(end <= holes[k][0] || first >= holes[k][1]);
		for (uint64_t page = first; r.ranges[i].written && page < end; page++) {
			assert_true(seen < n_written);
			assert_int_equal(page, written[seen++]);
		}
		there -= end - first;
	}
	for (size_t k = 0; k < n_holes; k++)
		there -= holes[k][1] - holes[k][0];
	assert_int_equal(seen, n_written);
	assert_int_equal(there, 0);
	scan_result_free(&r);
}

static void check_guard(struct child *c, struct tracker *tracker)
{
	uint64_t at = (uint64_t)(uintptr_t)c->memory + GUARD_PAGE * 4096;
	struct scan_result r = {0};
	unsigned guards = 0;

	scan_big(c, tracker, &r);
	for (size_t i = 0; i < r.n; i++) {
		assert_int_equal(r.ranges[i].guard, r.ranges[i].start == at);
		guards += r.ranges[i].guard;
	}
	assert_int_equal(guards, 1);
	scan_result_free(&r);
}

static void big_steps(bool quick)
{
	const unsigned written[] = {5, 10000}, touched[] = {2000};
	const unsigned holes[][2] = {{7, 8}, {1024, 2560}}, left[][2] = {{7, 8}, {1024, 2000}, {2001, 2560}};
	struct child c = start_big();
	struct tracker *tracker = begin(&c, TRACKER_PAGEMAP);
	struct scan_result first = {0};

	tracker->quick = tracker->quick && quick;
	scan_big(&c, tracker, &first);
	check_big(&c, tracker, NULL, 0, NULL, 0);
	step(&c, STEP_WRITE);
	check_big(&c, tracker, written, 2, NULL, 0);
	step(&c, STEP_DROP);
	check_big(&c, tracker, NULL, 0, holes, 2);
	step(&c, STEP_TOUCH);
	check_big(&c, tracker, touched, 1, left, 3);
	check_big(&c, tracker, NULL, 0, left, 3);
	if (step(&c, STEP_GUARD))
		for (int i = 0; i < 3; i++) /* it is armed by the first of them */
			check_guard(&c, tracker);
	scan_result_free(&first);
	tracker_free(tracker);
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	munmap(c.memory, BIG);
	munmap((void *)c.shared, 4096);
}

static void what_has_vanished_shows_in_either_way(void **state)
{
	const char *why;

	if (checkpointer_probe_tracker(TRACKER_PAGEMAP, &why) != TRACKER_PAGEMAP)
		skip();
	big_steps(false);
	big_steps(true);
}

static void add(struct scan_result *r, uint64_t start, uint64_t end, struct scan_range kind)
{
	struct err err;

	kind.start = start;
	kind.end = end;
	assert_int_equal(scan_result_add(r, &kind, &err), 0);
}

static void check_range(const struct scan_range *r, uint64_t start, uint64_t end, bool written, bool guard)
{
	assert_int_equal(r->start, start);
	assert_int_equal(r->end, end);
	assert_int_equal(r->written, written);
	assert_int_equal(r->guard, guard);
	assert_false(r->absent);
}

static void what_is_there_is_told_by_what_is_not(void **state)
{
	struct scan_result absent = {0}, written = {0}, r = {0};
	struct err err;

	add(&absent, 10, 20, (struct scan_range){.absent = true});
	add(&absent, 20, 30, (struct scan_range){.guard = true});
	add(&absent, 50, 60, (struct scan_range){0}); /* swapped out */
	add(&absent, 90, 100, (struct scan_range){.absent = true});
	add(&written, 0, 5, (struct scan_range){.written = true});
	add(&written, 55, 70, (struct scan_range){.written = true, .zero = true});
	assert_int_equal(scan_result_complement(&r, 0, 100, &absent, &written, &err), 0);
	assert_int_equal(r.n, 6);
	check_range(&r.ranges[0], 0, 5, true, false);
	check_range(&r.ranges[1], 5, 10, false, false);
	check_range(&r.ranges[2], 20, 30, false, true);
	check_range(&r.ranges[3], 30, 55, false, false);
	check_range(&r.ranges[4], 55, 70, true, false);
	assert_true(r.ranges[4].zero);
	check_range(&r.ranges[5], 70, 90, false, false);
	scan_result_free(&r);
	assert_int_equal(scan_result_complement(&r, 0, 100, &(struct scan_result){0},
						&(struct scan_result){0}, &err), 0);
	assert_int_equal(r.n, 1);
	check_range(&r.ranges[0], 0, 100, false, false);
	scan_result_free(&r);
	scan_result_free(&absent);
	scan_result_free(&written);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pagemap_tells_what_was_written),
		cmocka_unit_test(a_mapping_that_was_never_armed_counts_as_written),
		cmocka_unit_test(without_tracking_every_populated_page_is_a_candidate),
		cmocka_unit_test(soft_dirty_is_judged_by_behaviour),
		cmocka_unit_test(the_old_page_map_and_the_scan_agree),
		cmocka_unit_test(only_what_was_written_on_request),
		cmocka_unit_test(what_has_vanished_shows_in_either_way),
		cmocka_unit_test(what_is_there_is_told_by_what_is_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
