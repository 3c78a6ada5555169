#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpointer/tracee/procfs.h"
#include "store/base/cleanup.h"
#include "unit.h"

/* As Linux 6.18 prints them. */
static const char real_maps[] =
	"55f6abb91000-55f6abbc0000 r--p 00000000 fe:00 247101                     /usr/bin/bash\n"
	"55f6abbc0000-55f6abc81000 r-xp 0002f000 fe:00 247101                     /usr/bin/bash\n"
	"55f6d2c5e000-55f6d2d8f000 rw-p 00000000 00:00 0                          [heap]\n"
	"7f9244ca2000-7f9244ca3000 rw-s 00000000 fe:00 12                         /tmp/a b\\012c d"
	" (deleted)\n"
	"7f9244ca3000-7f9244ca4000 rw-s 00001000 00:01 2048                       /dev/zero "
	"(deleted)\n"
	"7f9244d5a000-7f9244d5d000 ---p 00000000 00:00 0 \n"
	"7f9244e00000-7f9244e01000 rw-p 00000000 00:00 0                          [anon:my heap]\n"
	"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

static const char real_smaps[] =
	"7ffc2f767000-7ffc2f788000 rw-p 00000000 00:00 0                          [stack]\n"
	"Size:                132 kB\n"
	"KernelPageSize:        4 kB\n"
	"MMUPageSize:           4 kB\n"
	"Rss:                  12 kB\n"
	"Pss:                  12 kB\n"
	"Pss_Dirty:            12 kB\n"
	"Shared_Clean:          0 kB\n"
	"Referenced:           12 kB\n"
	"Anonymous:            12 kB\n"
	"KSM:                   0 kB\n"
	"AnonHugePages:         0 kB\n"
	"Swap:                  8 kB\n"
	"SwapPss:               8 kB\n"
	"Locked:                0 kB\n"
	"THPeligible:           0\n"
	"ProtectionKey:         5\n"
	"SomethingNew:  not a number\n"
	"VmFlags: rd wr mr mw me gd ac sd zz \n"
	"7ffc2f788000-7ffc2f789000 r--p 00000000 00:00 0                          [vvar]\n"
	"Rss:                   0 kB\n"
	"VmFlags: rd mr pf io de dd\n";

static struct proc_map *parse(const char *text, bool smaps, size_t expect)
{
	struct proc_map *maps = NULL;
	struct err err = {0};
	size_t n = 0;

	assert_int_equal((smaps ? proc_parse_smaps : proc_parse_maps)(text, &maps, &n, &err), 0);
	assert_int_equal(n, expect);
	return maps;
}

static void test_maps(void **state)
{
	struct proc_map *m = parse(real_maps, false, 8);

	assert_int_equal(m[1].start, 0x55f6abbc0000);
	assert_int_equal(m[1].end, 0x55f6abc81000);
	assert_int_equal(m[1].offset, 0x2f000);
	assert_int_equal(m[1].prot, PROT_READ | PROT_EXEC);
	assert_false(m[1].shared);
	assert_int_equal(m[1].dev_major, 0xfe);
	assert_int_equal(m[1].dev_minor, 0);
	assert_int_equal(m[1].inode, 247101);
	assert_string_equal(m[1].name, "/usr/bin/bash");
	assert_string_equal(m[2].name, "[heap]");
	assert_string_equal(m[3].name, "/tmp/a b\nc d");
	assert_true(m[3].deleted && m[3].shared);
	assert_string_equal(m[4].name, "/dev/zero");
	assert_true(m[4].deleted);
	assert_string_equal(m[5].name, "");
	assert_int_equal(m[5].prot, 0);
	assert_string_equal(m[6].name, "[anon:my heap]");
	assert_int_equal(m[7].end, 0xffffffffff601000);
	proc_maps_free(m, 8);
}

static void test_smaps(void **state)
{
	struct proc_map *m = parse(real_smaps, true, 2);

	assert_string_equal(m[0].name, "[stack]");
	assert_int_equal(m[0].rss, 12 * 1024);
	assert_int_equal(m[0].swap, 8 * 1024);
	assert_int_equal(m[0].kernel_page_size, 4096);
	assert_int_equal(m[0].protection_key, 5);
	assert_int_equal(m[0].vm_flags, VMF_GROWSDOWN | VMF_ACCOUNT | VMF_SOFTDIRTY | VMF_MAYWRITE);
	assert_int_equal(m[1].vm_flags, VMF_PFNMAP | VMF_IO | VMF_DONTDUMP);
	assert_int_equal(m[1].rss, 0);
	proc_maps_free(m, 2);
}

static void test_every_flag_has_its_code(void **state)
{
	static const char codes[] =
		"gd nr lo lf ht dc dd wf hg nh mg sr rr uw um ui sl dp io pf ac ss sd mw";
	struct proc_map *m;
	char text[256];

	for (unsigned i = 0; i < 23; i++) {
		snprintf(text, sizeof(text), "1000-2000 r--p 0 0:0 0\nVmFlags: rd %.2s ex\n",
			 codes + 3 * i);
		m = parse(text, true, 1);
		assert_int_equal(m[0].vm_flags, 1u << i);
		proc_maps_free(m, 1);
	}
}

static void test_only_the_escaped_newline_is_undone(void **state)
{
	struct proc_map *m = parse("1000-2000 r--p 0 0:0 7   /a\\040b\\\\c\\012\\01\n"
				   "2000-3000 r--p 0 0:0 7   /x (deleted) (deleted)\n"
				   "3000-4000 r--p 0 0:0 7    (deleted)\n",
				   false, 3);

	assert_string_equal(m[0].name, "/a\\040b\\\\c\n\\01");
	assert_string_equal(m[1].name, "/x (deleted)");
	assert_true(m[1].deleted);
	assert_string_equal(m[2].name, "(deleted)");
	assert_false(m[2].deleted);
	proc_maps_free(m, 3);
}

static void test_empty_is_no_region(void **state)
{
	proc_maps_free(parse("", false, 0), 0);
	proc_maps_free(parse("", true, 0), 0);
}

static void test_hostile_text_is_refused(void **state)
{
	static const char *const cases[] = {
		"\n",
		"hello\n",
		"1000\n",
		"1000-\n",
		"1000-2000\n",
		"1000-2000 r--\n",
		"1000-2000 r--q 0 0:0 0\n",
		"1000-2000 r--p\n",
		"1000-2000 r--p 0 0 0\n",
		"1000-2000 r--p 0 0:0\n",
		"1000-2000 r--p 0 0:0 0x\n",
		"1000-2000 r--p 0 100000000:0 0\n",
		"2000-1000 r--p 0 0:0 0\n",
		"1000-1000 r--p 0 0:0 0\n",
		"-1000-2000 r--p 0 0:0 0\n",
		"11112222333344445-2000 r--p 0 0:0 0\n",
		"1000-11112222333344445 r--p 0 0:0 0\n",
		"1000-2000 r--p 11112222333344445 0:0 0\n",
		"1000-2000 r--p 0 0:0 99999999999999999999999\n",
		"1000-3000 r--p 0 0:0 0\n2000-4000 r--p 0 0:0 0\n",
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct proc_map *maps = NULL;
		struct err err = {0};
		size_t n = 42;

		assert_fails(proc_parse_maps(cases[i], &maps, &n, &err), ERR_CORRUPT, &err);
		assert_int_equal(n, 42);
		assert_null(maps);
	}
}

static void test_hostile_smaps_are_refused(void **state)
{
	static const char *const cases[] = {
		"Rss: 4 kB\n",
		"1000-2000 r--p 0 0:0 0\nRss: x kB\n",
		"1000-2000 r--p 0 0:0 0\nSwap: 99999999999999999999 kB\n",
		"1000-2000 r--p 0 0:0 0\nRss: 18446744073709551615 kB\n",
		"1000-2000 r--p 0 0:0 0\nKernelPageSize: 4194304 kB\n",
		"1000-2000 r--p 0 0:0 0\nProtectionKey: -1\n",
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct proc_map *maps = NULL;
		struct err err = {0};
		size_t n;

		assert_fails(proc_parse_smaps(cases[i], &maps, &n, &err), ERR_CORRUPT, &err);
		assert_non_null(strstr(err.msg, ":"));
	}
}

/* Maps a fresh file of this name and finds the region again. */
static void check_mapped_name(const char *name, bool unlink_it, const char *expect, bool deleted)
{
	cleanup_fd int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct proc_map *maps;
	struct err err = {0};
	bool found = false;
	char *p;
	size_t n;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	if (unlink_it)
		unlink(name);
	assert_int_equal(proc_read_maps(getpid(), true, &maps, &n, &err), 0);
	for (size_t i = 0; i < n; i++) {
		if (maps[i].start != (uintptr_t)p)
			continue;
		found = true;
		assert_string_equal(maps[i].name, expect);
		assert_int_equal(maps[i].deleted, deleted);
	}
	assert_true(found);
	proc_maps_free(maps, n);
	munmap(p, 4096);
	if (!unlink_it)
		unlink(name);
}

static void test_real_names(void **state)
{
	char dir[] = "/tmp/pawl-unit-maps-XXXXXX";
	char a[96], b[128];

	assert_non_null(mkdtemp(dir));
	snprintf(a, sizeof(a), "%s/two words\nand a line", dir);
	check_mapped_name(a, false, a, false);
	check_mapped_name(a, true, a, true);
	snprintf(b, sizeof(b), "%s (deleted)", a);
	check_mapped_name(b, false, b, false);
	check_mapped_name(b, true, b, true);
	rmdir(dir);
}

static void test_dead_process_is_gone(void **state)
{
	struct proc_map *maps;
	struct err err = {0};
	size_t n;

	assert_fails(proc_read_maps(0x7ffffff0, false, &maps, &n, &err), ERR_GONE, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_maps),
		cmocka_unit_test(test_smaps),
		cmocka_unit_test(test_every_flag_has_its_code),
		cmocka_unit_test(test_only_the_escaped_newline_is_undone),
		cmocka_unit_test(test_empty_is_no_region),
		cmocka_unit_test(test_hostile_text_is_refused),
		cmocka_unit_test(test_hostile_smaps_are_refused),
		cmocka_unit_test(test_real_names),
		cmocka_unit_test(test_dead_process_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
