/*
 * memory.c: memory objects beyond plain regions. Variants:
 *   guard   guard regions (MADV_GUARD_INSTALL) in private, shared and file memory, and at their borders
 *   sealed  regions that can neither be unmapped nor changed (mseal)
 *   locked  mlock, mlock2 with MLOCK_ONFAULT
 *   edges   the lowest and the highest address there is
 *   partial shared anonymous memory of which only pieces are mapped still, and a huge one with few pages
 *   many    20,000 regions
 *   huge    huge pages of hugetlbfs: private, shared, memfd
 *   keys    protection keys
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define PAGE 4096ul
#define MIB  (1ul << 20)

static char *map(void *at, size_t len, int prot, int flags, int fd)
{
	char *p = mmap(at, len, prot, flags | (at ? MAP_FIXED_NOREPLACE : 0), fd, 0);

	CHECK(p != MAP_FAILED);
	CHECK(!at || p == at);
	return p;
}

static char *map_private(size_t len)
{
	return map(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static char *map_shared(size_t len, int flags)
{
	return map(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | flags, -1);
}

/* Whether the page can be read, asked without a signal. */
static bool readable(const char *at)
{
	char byte;
	struct iovec to = {&byte, 1}, from = {(char *)at, 1};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

static void run(const struct target *t)
{
	target_ready(t);
	target_wait(t);
}

/* ---- guard regions ------------------------------------------------------------------------- */

static void install(char *at, size_t pages)
{
	if (madvise(at, pages * PAGE, MADV_GUARD_INSTALL) < 0)
		target_skip("no guard regions here");
}

/* Pattern, guard, pattern: page by page. */
static void check_guarded(char *p, size_t pages, const char *guarded, uint64_t seed)
{
	for (size_t i = 0; i < pages; i++) {
		CHECK_EQ(readable(p + i * PAGE), guarded[i] == '.');
		if (guarded[i] == '.')
			CHECK(pattern_holds(p + i * PAGE, PAGE, seed + i * PAGE / 8));
	}
}

static void fill_guarded(char *p, size_t pages, const char *guarded, uint64_t seed)
{
	pattern_fill(p, pages * PAGE, seed);
	for (size_t i = 0; i < pages; i++)
		if (guarded[i] == '#')
			install(p + i * PAGE, 1);
}

static void test_guard(const struct target *t)
{
	static const char layout[] = "#..##.#..#", at_end[] = ".....#####";
	size_t len = 10 * PAGE;
	char *private = map_private(len), *twin, *read_only = map_private(len), *empty = map_private(64 * MIB);
	char *path = target_path(t, "guarded"), *file;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	fill_guarded(private, 10, layout, 1);
	fill_guarded(read_only, 10, at_end, 2);
	CHECK(mprotect(read_only, len, PROT_READ) == 0);
	/* Two neighbours, guarded across the border, that do not merge. */
	twin = map_private(2 * len);
	pattern_fill(twin, 2 * len, 4);
	CHECK(mprotect(twin + len, len, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	install(twin + len - PAGE, 2);
	/* In a region without a page. */
	install(empty + 32 * MIB, 256);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)len) == 0);
	file = map(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	pattern_fill(file, len, 3);
	if (madvise(file + PAGE, PAGE, MADV_GUARD_INSTALL) < 0) /* Linux 6.15 */
		file = NULL;
	close(fd);
	run(t);
	check_guarded(private, 10, layout, 1);
	check_guarded(read_only, 10, at_end, 2);
	check_guarded(twin, 10, ".........#", 4);
	check_guarded(twin + len, 10, "#.........", 4 + len / 8);
	CHECK(readable(empty + 32 * MIB - PAGE) && !readable(empty + 32 * MIB) &&
	      !readable(empty + 33 * MIB - PAGE) && readable(empty + 33 * MIB));
	if (file)
		check_guarded(file, 10, ".#........", 3);
}

/* ---- sealing and locking ------------------------------------------------------------------- */

static void test_sealed(const struct target *t)
{
	char *p = map_private(MIB), *code = map_private(PAGE), *guarded = map_private(4 * PAGE);

	pattern_fill(p, MIB, 5);
	memset(code, 0xc3, PAGE);
	pattern_fill(guarded, 4 * PAGE, 6);
	madvise(guarded + PAGE, PAGE, MADV_GUARD_INSTALL);
	CHECK(mprotect(code, PAGE, PROT_READ | PROT_EXEC) == 0);
	if (syscall(SYS_mseal, p, MIB, 0) < 0)
		target_skip("no mseal here");
	CHECK(syscall(SYS_mseal, code, PAGE, 0) == 0 && syscall(SYS_mseal, guarded, 4 * PAGE, 0) == 0);
	run(t);
	CHECK(pattern_holds(p, MIB, 5) && pattern_holds(guarded, PAGE, 6));
	CHECK(munmap(p, PAGE) < 0 && errno == EPERM);
	CHECK(mprotect(code, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EPERM);
	((void (*)(void))(uintptr_t)code)();
	CHECK(munmap(guarded, 4 * PAGE) < 0 && errno == EPERM);
	pattern_fill(p, MIB, 7);
	CHECK(pattern_holds(p, MIB, 7));
}

/* Locked and resident kibibytes of the mapping at p, as smaps tells. */
static void locked_state(const char *p, char flags[512], long *ret_rss)
{
	char line[512], want[64];
	FILE *f = fopen("/proc/self/smaps", "r");
	bool here = false;

	CHECK(f);
	snprintf(want, sizeof(want), "%lx-", (unsigned long)p);
	*ret_rss = -1;
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, want, strlen(want)))
			here = true;
		if (here && !strncmp(line, "Rss:", 4))
			sscanf(line, "Rss: %ld", ret_rss);
		if (here && !strncmp(line, "VmFlags:", 8)) {
			strcpy(flags, line);
			break;
		}
	}
	fclose(f);
	CHECK(here);
}

static void test_locked(const struct target *t)
{
	char *now = map_private(MIB), *later, flags[512];
	long rss;

	map(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1); /* keeps the two apart */
	later = map_private(MIB);
	if (mlock(now, MIB) < 0 || mlock2(later, MIB, MLOCK_ONFAULT) < 0)
		target_skip("memory cannot be locked here");
	pattern_fill(now, MIB / 2, 8);
	pattern_fill(later, MIB / 4, 9);
	run(t);
	locked_state(now, flags, &rss);
	CHECK(strstr(flags, " lo") && !strstr(flags, " lf"));
	CHECK_EQ(rss, 1024);
	locked_state(later, flags, &rss);
	CHECK(strstr(flags, " lo") && strstr(flags, " lf"));
	CHECK_EQ(rss, 256);
	CHECK(pattern_holds(now, MIB / 2, 8) && pattern_holds(later, MIB / 4, 9));
}

/* ---- addresses ----------------------------------------------------------------------------- */

static unsigned long lowest(void)
{
	unsigned long at = 65536;
	FILE *f = fopen("/proc/sys/vm/mmap_min_addr", "r");

	CHECK(!f || fscanf(f, "%lu", &at) == 1);
	if (f)
		fclose(f);
	return at < PAGE ? PAGE : at;
}

static void test_edges(const struct target *t)
{
	char *low = map((void *)lowest(), 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char *top = mmap((void *)0x7fffffffe000ul, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	/* With five-level page tables only: else the kernel takes it as a mere hint. */
	char *beyond = mmap((void *)0x10000000000000ul, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(beyond != MAP_FAILED);
	pattern_fill(low, 2 * PAGE, 10);
	pattern_fill(beyond, PAGE, 11);
	if (top != MAP_FAILED)
		pattern_fill(top, PAGE, 12);
	run(t);
	CHECK(pattern_holds(low, 2 * PAGE, 10) && pattern_holds(beyond, PAGE, 11));
	CHECK(top == MAP_FAILED || pattern_holds(top, PAGE, 12));
}

static void test_many(const struct target *t)
{
	const size_t n = 10000;
	char *p = map(NULL, 2 * n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	FILE *f;
	char line[512];
	size_t lines = 0, before = 0;

	for (size_t i = 0; i < n; i++) {
		CHECK(mprotect(p + 2 * i * PAGE, PAGE, i % 2 ? PROT_READ | PROT_WRITE
							      : PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
		if (i % 3 == 0)
			pattern_fill(p + 2 * i * PAGE, PAGE, i);
	}
	for (f = fopen("/proc/self/maps", "r"); fgets(line, sizeof(line), f);)
		before++;
	fclose(f);
	run(t);
	for (f = fopen("/proc/self/maps", "r"); fgets(line, sizeof(line), f);)
		lines++;
	fclose(f);
	CHECK(before >= 2 * n - 1);
	CHECK_EQ(lines, before);
	for (size_t i = 0; i < n; i++) {
		if (i % 3 == 0)
			CHECK(pattern_holds(p + 2 * i * PAGE, PAGE, i));
		CHECK(!readable(p + (2 * i + 1) * PAGE));
	}
}

/* ---- shared anonymous memory --------------------------------------------------------------- */

static long shared_kib(void)
{
	char line[256];
	long kib = -1;
	FILE *f = fopen("/proc/self/status", "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "RssShmem: %ld", &kib);
	fclose(f);
	return kib;
}

static void test_partial(const struct target *t)
{
	size_t huge = 16ul << 30;
	char *holed = map_shared(8 * MIB, 0), *tail = map_shared(8 * MIB, 0);
	char *sparse = map_shared(huge, MAP_NORESERVE), *moved;

	pattern_fill(holed, 8 * MIB, 20);
	pattern_fill(tail, 8 * MIB, 21);
	CHECK(munmap(holed + 2 * MIB, 3 * MIB) == 0 && munmap(tail, 6 * MIB) == 0);
	moved = mremap(holed + 6 * MIB, MIB, MIB, MREMAP_MAYMOVE | MREMAP_FIXED, map_private(MIB));
	CHECK(moved != MAP_FAILED);
	pattern_fill(sparse + 10 * MIB, MIB, 22);
	pattern_fill(sparse + huge - MIB, MIB, 23);
	run(t);
	CHECK(pattern_holds(holed, 2 * MIB, 20) &&
	      pattern_holds(holed + 5 * MIB, MIB, 20 + 5 * MIB / 8) &&
	      pattern_holds(moved, MIB, 20 + 6 * MIB / 8) && pattern_holds(tail + 6 * MIB, 2 * MIB, 21 + 6 * MIB / 8));
	CHECK(pattern_holds(sparse + 10 * MIB, MIB, 22) && pattern_holds(sparse + huge - MIB, MIB, 23));
	/* What was never touched costs nothing still. */
	CHECK(shared_kib() < 64 * 1024);
}

/* ---- huge pages ---------------------------------------------------------------------------- */

#define HUGE (2 * MIB)

static char *try_huge(int flags, int fd, size_t len)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags | (fd < 0 ? MAP_ANONYMOUS | MAP_HUGETLB : 0), fd, 0);

	if (p == MAP_FAILED)
		target_skip("no huge pages are set aside here (vm.nr_hugepages)");
	return p;
}

static void test_huge(const struct target *t)
{
	char *private = try_huge(MAP_PRIVATE | 21 << MAP_HUGE_SHIFT, -1, 2 * HUGE), *shared, *mapped;
	int fd = memfd_create("huge", MFD_HUGETLB | MFD_CLOEXEC);
	struct rlimit unused;

	CHECK(getrlimit(RLIMIT_AS, &unused) == 0);
	CHECK(fd >= 0 && ftruncate(fd, 2 * HUGE) == 0);
	pattern_fill(private, HUGE, 30); /* the second stays untouched */
	shared = try_huge(MAP_SHARED, -1, HUGE);
	pattern_fill(shared, HUGE, 31);
	mapped = try_huge(MAP_SHARED, fd, 2 * HUGE);
	pattern_fill(mapped + HUGE, HUGE, 32);
	run(t);
	CHECK(pattern_holds(private, HUGE, 30) && private[HUGE] == 0);
	CHECK(pattern_holds(shared, HUGE, 31));
	CHECK(pattern_holds(mapped + HUGE, HUGE, 32) && mapped[0] == 0);
	mapped[7] = 7;
	CHECK(munmap(mapped, 2 * HUGE) == 0);
	mapped = try_huge(MAP_SHARED, fd, 2 * HUGE);
	CHECK(mapped[7] == 7 && pattern_holds(mapped + HUGE, HUGE, 32));
	/* Only whole huge pages can be given back. */
	CHECK(munmap(private, PAGE) < 0 && errno == EINVAL);
}

/* ---- protection keys ----------------------------------------------------------------------- */

static void test_keys(const struct target *t)
{
	char *p = map_private(MIB);
	int free_key, key;

	free_key = pkey_alloc(0, 0);
	if (free_key < 0)
		target_skip("this CPU has no protection keys");
	key = pkey_alloc(0, PKEY_DISABLE_WRITE);
	CHECK(key > 0 && pkey_free(free_key) == 0);
	pattern_fill(p, MIB, 40);
	CHECK(pkey_mprotect(p, MIB, PROT_READ | PROT_WRITE, key) == 0);
	run(t);
	CHECK_EQ(pkey_get(key), PKEY_DISABLE_WRITE);
	CHECK(pattern_holds(p, MIB, 40));
	CHECK(pkey_set(key, 0) == 0);
	p[5] = 9;
	CHECK_EQ(pkey_alloc(0, 0), free_key);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*test)(const struct target *t);
	} all[] = {
		{"guard", test_guard}, {"sealed", test_sealed},	  {"locked", test_locked}, {"edges", test_edges},
		{"many", test_many},   {"partial", test_partial}, {"huge", test_huge},	   {"keys", test_keys},
	};
	struct target t;

	target_start(&t, argc, argv);
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (!strcmp(all[i].name, t.variant)) {
			all[i].test(&t);
			return target_pass(&t);
		}
	target_fail(__FILE__, __LINE__, "no such variant", 0, 0);
}
