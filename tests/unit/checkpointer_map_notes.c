/*
 * Flags of mappings that are read outside the pause: which mapping has which, and when the notes fail.
 */
#include "unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpointer/map_notes.h"

#define MAP(from, to, flags) \
	{.start = (from), .end = (to), .prot = PROT_READ | PROT_WRITE, .name = (char *)"", .vm_flags = (flags)}
#define LIST(array) {(array), sizeof(array) / sizeof((array)[0])}

static void a_mapping_that_grew_or_was_split_keeps_its_flags(void **state)
{
	struct proc_map a[] = {MAP(0x1000, 0x5000, VMF_DONTFORK), MAP(0x8000, 0xc000, VMF_HUGEPAGE)};
	struct proc_map b[] = {MAP(0x1000, 0x2000, 0), MAP(0x3000, 0x5000, 0), MAP(0x7000, 0xf000, 0)};
	struct map_list before = LIST(a), paused = LIST(b);

	(void)state;
	assert_true(map_flags_copy(&before, &paused, 0, 0));
	assert_int_equal(b[0].vm_flags, VMF_DONTFORK);
	assert_int_equal(b[1].vm_flags, VMF_DONTFORK);
	assert_int_equal(b[2].vm_flags, VMF_HUGEPAGE);
}

static void of_a_new_mapping_nothing_is_known(void **state)
{
	struct proc_map a[] = {MAP(0x1000, 0x5000, 0)};
	struct proc_map b[] = {MAP(0x1000, 0x5000, 0), MAP(0x6000, 0x7000, 0)};
	struct map_list before = LIST(a), paused = LIST(b);

	(void)state;
	assert_false(map_flags_copy(&before, &paused, 0, 0));
	assert_true(map_flags_copy(&before, &paused, 0x6000, 0x7000)); /* it is ours */
	assert_false(map_flags_copy(&before, &paused, 0x6000, 0x6800));
}

static void another_kind_of_mapping_at_the_same_place_is_new(void **state)
{
	struct proc_map a[] = {MAP(0x1000, 0x5000, 0)}, b[] = {MAP(0x1000, 0x5000, 0)};
	struct map_list before = LIST(a), paused = LIST(b);

	(void)state;
	b[0].prot = PROT_READ;
	assert_false(map_flags_copy(&before, &paused, 0, 0));
	b[0].prot = a[0].prot;
	b[0].inode = 7;
	assert_false(map_flags_copy(&before, &paused, 0, 0));
	a[0].inode = 7;
	assert_true(map_flags_copy(&before, &paused, 0, 0));
	b[0].offset = 0x1000;
	assert_false(map_flags_copy(&before, &paused, 0, 0));
}

static void several_that_differ_tell_nothing(void **state)
{
	struct proc_map a[] = {MAP(0x1000, 0x2000, VMF_DONTDUMP), MAP(0x2000, 0x3000, 0)};
	struct proc_map b[] = {MAP(0x1000, 0x3000, 0)};
	struct map_list before = LIST(a), paused = LIST(b);

	(void)state;
	assert_false(map_flags_copy(&before, &paused, 0, 0));
}

static void only_what_the_job_set_is_compared(void **state)
{
	struct proc_map a[] = {MAP(0x1000, 0x3000, VMF_DONTDUMP)};
	struct proc_map b[] = {MAP(0x1000, 0x2000, VMF_DONTDUMP | VMF_UFFD_WP | VMF_SOFTDIRTY)};
	struct map_list paused = LIST(a), after = LIST(b), none = {0};

	(void)state;
	assert_true(map_flags_agree(&paused, &after));
	assert_true(map_flags_agree(&paused, &none));
	b[0].vm_flags = VMF_DONTFORK;
	assert_false(map_flags_agree(&paused, &after));
	b[0].vm_flags = VMF_DONTDUMP;
	b[0].protection_key = 2;
	assert_false(map_flags_agree(&paused, &after));
}

static void assert_advice_is_seen(struct map_notes *notes, pid_t pid, const char *memory)
{
	const struct map_list *list;
	struct err err;

	assert_int_equal(map_notes_read(notes, pid, 0, 0, &list, &err), 0);
	for (size_t i = 0; i < list->n; i++)
		if (list->maps[i].start == (uintptr_t)memory)
			assert_true(list->maps[i].vm_flags & VMF_DONTDUMP);
	assert_true(notes->list[0].used);
	assert_true(map_notes_hold(notes));
}

/* On a live process, which waits to be told: what madvise sets between the two readings is seen. */
static void advice_given_meanwhile_makes_the_notes_fail(void **state)
{
	const size_t len = 1 << 20;
	char *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), told;
	struct map_notes notes = {0}, last = {0};
	int to[2], from[2];
	struct err err;
	pid_t pid;

	(void)state;
	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(madvise(memory, len, MADV_DONTDUMP), 0);
	assert_int_equal(pipe(to) | pipe(from), 0);
	pid = fork();
	if (pid == 0) {
		if (read(to[0], &told, 1) == 1 && madvise(memory, len, MADV_DONTFORK) == 0 &&
		    write(from[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	assert_true(pid > 0);
	usleep(100000); /* it has come to rest in its read */
	assert_int_equal(map_notes_take(&notes, &last, pid, &err), 0);
	assert_advice_is_seen(&notes, pid, memory);
	assert_false(map_notes_are_old(&notes));
	/* What was seen at the end serves the next time. */
	map_notes_pass(&notes, &last);
	assert_int_equal(map_notes_take(&notes, &last, pid, &err), 0);
	assert_true(map_notes_are_old(&notes));
	assert_advice_is_seen(&notes, pid, memory);
	assert_int_equal(write(to[1], "", 1), 1);
	assert_int_equal(read(from[0], &told, 1), 1);
	assert_false(map_notes_hold(&notes));
	map_notes_free(&notes);
	map_notes_free(&last);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(memory, len);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_mapping_that_grew_or_was_split_keeps_its_flags),
		cmocka_unit_test(of_a_new_mapping_nothing_is_known),
		cmocka_unit_test(another_kind_of_mapping_at_the_same_place_is_new),
		cmocka_unit_test(several_that_differ_tell_nothing),
		cmocka_unit_test(only_what_the_job_set_is_compared),
		cmocka_unit_test(advice_given_meanwhile_makes_the_notes_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
