/*
 * Memory put up ahead: a donor, a child of ours here, has after each snapshot what that one has, wherever pages and
 * mappings have changed.
 */
#include "unit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "recovery/ahead.h"
#include "store/base/cleanup.h"
#include "store_fixture.h"

#define BASE  0x200000000ull /* page index: nothing of ours is there, nor of a sanitizer */
#define PAGES 1024u
#define LEAST 256u	    /* pages of a region: below, it is not taken */

static struct err err;
static pid_t child;

static int spawn(void *ctx, pid_t vpid, pid_t *ret_pid, int *ret_pidfd, struct err *e)
{
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	*ret_pid = child;
	*ret_pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	return child > 0 && *ret_pidfd >= 0 ? 0 : err_sys(e, "fork");
}

static const struct recovery_host host = {.spawn = spawn};

static Snap__Region *add_region(Snap__Snapshot *model, uint64_t first, uint64_t n)
{
	Snap__Process *p = model->processes[0];
	Snap__Region *r = snap_append(&p->regions, &p->n_regions, Snap__Region, SNAP__REGION__INIT);

	r->start = (BASE + first) * PAGE;
	r->end = r->start + n * PAGE;
	r->file = -1;
	r->prot = PROT_READ | PROT_WRITE;
	return r;
}

/* The snapshot's own model, whose regions the test adds. */
static Snap__Snapshot *load(struct store *store, uint64_t seq)
{
	Snap__Snapshot *model;

	ok(store_snapshot_load(store, "job", seq, NULL, &model, &err));
	return model;
}

static struct ahead *bring_up(struct ahead *ahead, struct store *store, uint64_t seq, Snap__Snapshot *model)
{
	ok(ahead_update(&ahead, &host, store, "job", seq, model, &err));
	return ahead;
}

/* -1: nothing is mapped there. */
static int read_page(uint64_t page, char buf[PAGE])
{
	struct iovec local = {buf, PAGE}, remote = {(void *)((BASE + page) * PAGE), PAGE};

	return process_vm_readv(child, &local, 1, &remote, 1, 0) == PAGE ? 0 : -1;
}

static void check_has(const struct image *image, uint64_t first, uint64_t n)
{
	char page[PAGE], expected[PAGE];

	for (uint64_t i = first; i < first + n; i++) {
		assert_int_equal(read_page(i, page), 0);
		fixture_page(expected, image->seed[i]);
		assert_memory_equal(page, expected, PAGE);
	}
}

static bool is_resident(uint64_t page)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", child);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, &entry, 8, (off_t)((BASE + page) * 8)), 8);
	close(fd);
	return entry >> 63 & 1;
}

static void end(struct ahead *ahead, Snap__Snapshot *model)
{
	int status;

	ahead_free(ahead);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	snap__snapshot__free_unpacked(model, NULL);
}

static void test_follows_changes(void **state)
{
	struct image first = image_new(PAGES, 1), second = image_new(PAGES, 1);
	struct store *store = *state;
	uint64_t random = 7;
	Snap__Snapshot *model;
	struct ahead *ahead;

	memcpy(second.seed, first.seed, PAGES * sizeof(uint64_t));
	image_change(&second, 100, &random);
	second.seed[17] = 0; /* it had content, and is zero now */
	image_save(store, "job", 0, &first, NULL, BASE);
	image_save(store, "job", 1, &second, &first, BASE);
	model = load(store, 1);
	add_region(model, 0, PAGES);
	ahead = bring_up(NULL, store, 1, model);
	check_has(&first, 0, PAGES);
	assert_int_equal(ahead_size(ahead), PAGES * PAGE);
	assert_true(is_resident(17));
	snap__snapshot__free_unpacked(model, NULL);

	model = load(store, 2);
	add_region(model, 0, PAGES);
	ahead = bring_up(ahead, store, 2, model);
	assert_false(is_resident(17)); /* the job's would be no zero page of its own, either */
	check_has(&second, 0, PAGES);
	end(ahead, model);
	image_free(&first);
	image_free(&second);
}

/* Regions that grow, shrink, come and go between two snapshots with the same pages. */
static void test_follows_mappings(void **state)
{
	struct image image = image_new(4 * PAGES, 5);
	struct store *store = *state;
	Snap__Snapshot *model;
	struct ahead *ahead;
	char page[PAGE];

	image_save(store, "job", 0, &image, NULL, BASE);
	model = load(store, 1);
	add_region(model, 0, LEAST);		       /* will grow */
	add_region(model, PAGES, PAGES);	       /* will shrink */
	add_region(model, 2 * PAGES, PAGES);	       /* will go, … */
	add_region(model, 3 * PAGES, LEAST - 1);       /* too small */
	add_region(model, 3 * PAGES + 300, LEAST)->prot = PROT_READ;
	ahead = bring_up(NULL, store, 1, model);
	check_has(&image, 0, LEAST);
	check_has(&image, PAGES, 2 * PAGES);
	assert_int_equal(ahead_size(ahead), (LEAST + 2 * PAGES) * PAGE);
	assert_int_equal(read_page(3 * PAGES, page), -1);
	assert_int_equal(read_page(3 * PAGES + 300, page), -1);
	snap__snapshot__free_unpacked(model, NULL);

	model = load(store, 1);
	add_region(model, 0, PAGES);
	add_region(model, PAGES, LEAST);
	add_region(model, 2 * PAGES + 10, PAGES); /* … and another one comes where it was */
	ahead = bring_up(ahead, store, 1, model);
	check_has(&image, 0, PAGES + LEAST);
	check_has(&image, 2 * PAGES + 10, PAGES);
	assert_int_equal(read_page(PAGES + LEAST, page), -1);
	assert_int_equal(read_page(2 * PAGES, page), -1);
	assert_int_equal(ahead_size(ahead), (2 * PAGES + LEAST) * PAGE);
	end(ahead, model);
	image_free(&image);
}

static void test_does_without(void **state)
{
	struct image image = image_new(PAGES, 9);
	struct store *store = *state;
	Snap__Snapshot *model;
	struct ahead *ahead;

	image_save(store, "job", 0, &image, NULL, BASE);
	model = load(store, 1);
	assert_false(ahead_pays(NULL, model));
	ahead = bring_up(NULL, store, 1, model);
	assert_false(ahead_pays(ahead, model)); /* it has nothing */
	add_region(model, 0, PAGES);
	ahead = bring_up(ahead, store, 1, model);
	assert_true(ahead_pays(ahead, model));
	for (int i = 0; i < 16; i++)
		snap_append(&model->processes, &model->n_processes, Snap__Process, SNAP__PROCESS__INIT);
	assert_false(ahead_pays(ahead, model));
	while (model->n_processes > 1)
		snap__process__free_unpacked(model->processes[--model->n_processes], NULL);
	assert_true(ahead_pays(ahead, model));
	kill(child, SIGKILL);
	waitid(P_PID, (id_t)child, &(siginfo_t){0}, WEXITED | WNOWAIT);
	assert_false(ahead_pays(ahead, model));
	end(ahead, model);
	image_free(&image);
}

/* Where the donor has something of its own, however large. */
static void test_leaves_alone_what_is_there(void **state)
{
	struct image image = image_new(2 * PAGES, 4);
	void *mine = mmap((void *)(BASE * PAGE), PAGES * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	struct store *store = *state;
	char page[PAGE], zeroes[PAGE] = {0};
	Snap__Snapshot *model;
	struct ahead *ahead;

	assert_ptr_equal(mine, (void *)(BASE * PAGE));
	image_save(store, "job", 0, &image, NULL, BASE);
	model = load(store, 1);
	add_region(model, 10, LEAST);		      /* all of it is taken */
	add_region(model, PAGES - 10, LEAST);	      /* some of it is */
	add_region(model, PAGES + LEAST, LEAST);
	ahead = bring_up(NULL, store, 1, model);
	munmap(mine, PAGES * PAGE);
	assert_int_equal(ahead_size(ahead), LEAST * PAGE);
	check_has(&image, PAGES + LEAST, LEAST);
	assert_int_equal(read_page(10, page), 0);
	assert_memory_equal(page, zeroes, PAGE);
	assert_int_equal(read_page(PAGES, page), -1);
	end(ahead, model);
	image_free(&image);
}

/* A snapshot that is not there leaves no donor behind. */
static void test_fails_whole(void **state)
{
	struct image image = image_new(LEAST, 3);
	struct store *store = *state;
	Snap__Snapshot *model;
	struct ahead *ahead = NULL;
	int status;

	image_save(store, "job", 0, &image, NULL, BASE);
	model = load(store, 1);
	add_region(model, 0, LEAST);
	assert_int_equal(ahead_update(&ahead, &host, store, "job", 2, model, &err), -1);
	assert_null(ahead);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	snap__snapshot__free_unpacked(model, NULL);
	image_free(&image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_follows_changes, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_follows_mappings, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_does_without, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_leaves_alone_what_is_there, fixture_set_up, fixture_tear_down),
		cmocka_unit_test_setup_teardown(test_fails_whole, fixture_set_up, fixture_tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
