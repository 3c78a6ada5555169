/*
 * pool.c: processes that share memory since they were forked: each comes back with exactly its own
 * content, and what they had in common is in memory once (copy-on-write), not once for each.
 *
 * The parent keeps, rewrites and gives up regions after the fork; the children rewrite, drop,
 * protect, grow and unmap parts of theirs; one has a child of its own. /proc/self/smaps tells what
 * is shared.
 */
#include "target.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE	 4096ul
#define MIB	 (1ul << 20)
#define TABLE	 (48 * MIB)
#define CHILDREN 6

/* What all have from before the fork. */
struct pool {
	const struct target *target;
	char *table;	 /* shared by all, with a few pages of each one's own */
	char *rewritten; /* by the parent, after the fork */
	char *left;	 /* unmapped by the parent, after the fork */
	char *file;   /* private mapping of a file of 64 pages; the first 16 written before the fork
		       */
	char *own;    /* MADV_DONTFORK: the parent's alone */
	char *wiped;  /* MADV_WIPEONFORK */
	char *locked; /* mlocked in the parent */
	char *heap;
	char *sparse; /* a great reserve with single pages */
};

static char *map_filled(size_t len, uint64_t seed)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	pattern_fill(p, len, seed);
	return p;
}

static char *map_file(const struct target *t)
{
	char *path = target_path(t, "data"), *data = map_filled(64 * PAGE, 60), *p;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && write(fd, data, 64 * PAGE) == (ssize_t)(64 * PAGE));
	close(fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(fd >= 0 && p != MAP_FAILED && munmap(data, 64 * PAGE) == 0);
	close(fd);
	free(path);
	pattern_fill(p, 16 * PAGE, 61);
	return p;
}

static void set_up(struct pool *p, const struct target *t)
{
	p->target = t;
	p->table = map_filled(TABLE, 1);
	p->rewritten = map_filled(4 * MIB, 2);
	p->left = map_filled(4 * MIB, 3);
	p->file = map_file(t);
	p->own = map_filled(MIB, 4);
	CHECK(madvise(p->own, MIB, MADV_DONTFORK) == 0);
	p->wiped = map_filled(MIB, 5);
	CHECK(madvise(p->wiped, MIB, MADV_WIPEONFORK) == 0);
	p->locked = map_filled(16 * PAGE, 6);
	mlock(p->locked, 16 * PAGE);
	p->heap = sbrk(2 * MIB);
	CHECK(p->heap != (void *)-1);
	pattern_fill(p->heap, 2 * MIB, 7);
	p->sparse = mmap(NULL, 1024 * MIB, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(p->sparse != MAP_FAILED);
	for (size_t at = 0; at < 1024 * MIB; at += 64 * MIB)
		pattern_fill(p->sparse + at, PAGE, 8);
}

/* ---- what a child makes of it -------------------------------------------------------------- */

/* Every child writes a page in each MiB, drops another one and zeroes a third. */
static void change_table(const struct pool *p, uint64_t who)
{
	for (size_t at = 0; at < TABLE; at += MIB) {
		pattern_fill(p->table + at + who * 8 * PAGE, PAGE, 100 * who + at);
		CHECK(madvise(p->table + at + (who * 8 + 1) * PAGE, 2 * PAGE, MADV_DONTNEED) == 0);
		memset(p->table + at + (who * 8 + 3) * PAGE, 0, PAGE);
	}
}

static void check_table(const struct pool *p, uint64_t who)
{
	static const char zeroes[3 * PAGE];

	for (size_t at = 0; at < TABLE; at += MIB) {
		size_t first = who ? at + who * 8 * PAGE : at + MIB,
		       end = who ? first + 4 * PAGE : first;

		CHECK(pattern_holds(p->table + at, first - at, 1 + at / 8));
		if (!who)
			continue;
		CHECK(pattern_holds(p->table + first, PAGE, 100 * who + at));
		CHECK(memcmp(p->table + first + PAGE, zeroes, 3 * PAGE) == 0);
		CHECK(pattern_holds(p->table + end, at + MIB - end, 1 + end / 8));
	}
}

static void child_changes(struct pool *p, uint64_t who)
{
	change_table(p, who);
	CHECK(sbrk((intptr_t)(who * 64 * PAGE)) != (void *)-1);
	pattern_fill(p->heap + 2 * MIB, who * 64 * PAGE, 70 + who);
	pattern_fill(p->sparse + who * 64 * MIB, PAGE, 80 + who);
	pattern_fill(p->sparse + who * 64 * MIB + PAGE, PAGE, 81 + who);
	if (who == 1)
		CHECK(mprotect(p->rewritten, 2 * MIB, PROT_READ) == 0);
	if (who == 2) /* back to the file's content, and others' written */
		CHECK(madvise(p->file, 4 * PAGE, MADV_DONTNEED) == 0);
	if (who == 3) /* a hole, and something else in it */
		CHECK(mmap(p->left + MIB, MIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			   -1, 0) == p->left + MIB);
	if (who == 4)
		CHECK(munmap(p->file + 8 * PAGE, 8 * PAGE) == 0);
	if (who == 5)
		CHECK(mprotect(p->left, 4 * MIB, PROT_NONE) == 0);
	pattern_fill(p->wiped, PAGE, 90 + who);
	pattern_fill(p->file + 32 * PAGE, PAGE, 62 + who);
}

static void check_file(const struct pool *p, uint64_t who)
{
	size_t from = who == 2 ? 4 * PAGE : 0;

	CHECK(pattern_holds(p->file, from, 60));
	if (who == 4) {
		CHECK(pattern_holds(p->file, 8 * PAGE, 61));
	} else {
		CHECK(pattern_holds(p->file + from, 16 * PAGE - from, 61 + from / 8));
	}
	CHECK(pattern_holds(p->file + 16 * PAGE, 16 * PAGE, 60 + 16 * PAGE / 8));
	CHECK(pattern_holds(p->file + 32 * PAGE, PAGE, who ? 62 + who : 60 + 32 * PAGE / 8));
	CHECK(pattern_holds(p->file + 33 * PAGE, 31 * PAGE, 60 + 33 * PAGE / 8));
}

static void check_left(const struct pool *p, uint64_t who)
{
	if (who == 5)
		CHECK(mprotect(p->left, 4 * MIB, PROT_READ) == 0);
	CHECK(pattern_holds(p->left, MIB, 3));
	if (who != 3)
		CHECK(pattern_holds(p->left + MIB, MIB, 3 + MIB / 8));
	else
		CHECK(p->left[MIB] == 0 && p->left[2 * MIB - 1] == 0);
	CHECK(pattern_holds(p->left + 2 * MIB, 2 * MIB, 3 + 2 * MIB / 8));
}

static void check_sparse(const struct pool *p, uint64_t who)
{
	for (uint64_t i = 0; i < 16; i++) {
		const char *at = p->sparse + i * 64 * MIB;

		CHECK(pattern_holds(at, PAGE, who && i == who ? 80 + who : 8));
		CHECK(who && i == who ? pattern_holds(at + PAGE, PAGE, 81 + who) : at[PAGE] == 0);
	}
}

/* Rss and Pss of the mapping at p, KiB. */
static void shares_of(const void *p, unsigned long *ret_rss, unsigned long *ret_pss)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned long start, end, value;
	bool inside = false;
	char line[512];

	CHECK(smaps);
	*ret_rss = *ret_pss = 0;
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2 && strchr(line, '-'))
			inside = start <= (uintptr_t)p && (uintptr_t)p < end;
		if (inside && sscanf(line, "Rss: %lu", &value) == 1)
			*ret_rss = value;
		if (inside && sscanf(line, "Pss: %lu", &value) == 1)
			*ret_pss = value;
	}
	fclose(smaps);
}

/* Among seven or eight processes; a few are shared less because of what was written. */
static void check_shared(const void *p)
{
	unsigned long rss, pss;

	shares_of(p, &rss, &pss);
	if (pss * 3 > rss)
		fprintf(stderr, "Rss %lu KiB, Pss %lu KiB\n", rss, pss);
	CHECK(pss * 3 <= rss);
}

static void child_checks(const struct pool *p, uint64_t who)
{
	check_shared(p->table);
	check_table(p, who);
	CHECK(pattern_holds(p->rewritten, 4 * MIB, 2));
	check_left(p, who);
	check_file(p, who);
	CHECK(pattern_holds(p->wiped, PAGE, 90 + who) && p->wiped[PAGE] == 0);
	CHECK(pattern_holds(p->locked, 16 * PAGE, 6));
	CHECK(pattern_holds(p->heap, 2 * MIB, 7));
	CHECK(pattern_holds(p->heap + 2 * MIB, who * 64 * PAGE, 70 + who));
	check_sparse(p, who);
	/* All that is writable still is, for this process alone. */
	pattern_fill(p->table, TABLE, 1000 + who);
	CHECK(pattern_holds(p->table, TABLE, 1000 + who));
	CHECK(sbrk(MIB) != (void *)-1);
}

static void tell(int fd)
{
	CHECK(write(fd, "r", 1) == 1);
}

static void await(int fd)
{
	char c;

	CHECK(read(fd, &c, 1) == 1);
}

/* All look before any writes: pages are shared until then. */
static void child_main(struct pool *p, uint64_t who, int ready, int looked, int write_now)
{
	int status;
	pid_t grandchild = 0;

	child_changes(p, who);
	if (who == CHILDREN - 1 && (grandchild = fork()) == 0) {
		pattern_fill(p->rewritten, PAGE, 2222);
		tell(ready);
		target_wait(p->target);
		check_shared(p->table);
		check_table(p, who);
		CHECK(pattern_holds(p->rewritten, PAGE, 2222));
		CHECK(pattern_holds(p->rewritten + PAGE, 4 * MIB - PAGE, 2 + PAGE / 8));
		tell(looked);
		_exit(0);
	}
	tell(ready);
	target_wait(p->target);
	check_shared(p->table);
	tell(looked);
	await(write_now);
	if (grandchild)
		CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
	child_checks(p, who);
	_exit(0);
}

static void parent_checks(const struct pool *p)
{
	check_table(p, 0);
	CHECK(pattern_holds(p->rewritten, 4 * MIB, 22));
	check_file(p, 0);
	CHECK(pattern_holds(p->own, MIB, 4));
	CHECK(pattern_holds(p->wiped, MIB, 5));
	CHECK(pattern_holds(p->locked, 16 * PAGE, 6));
	CHECK(pattern_holds(p->heap, 2 * MIB, 7));
	check_sparse(p, 0);
}

static void make_pipe(int fds[2])
{
	CHECK(pipe2(fds, O_CLOEXEC) == 0);
}

int main(int argc, char **argv)
{
	int ready[2], looked[2], write_now[2], status;
	struct target target;
	struct pool pool;

	target_start(&target, argc, argv);
	set_up(&pool, &target);
	make_pipe(ready);
	make_pipe(looked);
	make_pipe(write_now);
	for (uint64_t who = 1; who < CHILDREN; who++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0)
			child_main(&pool, who, ready[1], looked[1], write_now[0]);
	}
	for (int i = 0; i < CHILDREN; i++)
		await(ready[0]);
	pattern_fill(pool.rewritten, 4 * MIB, 22);
	CHECK(munmap(pool.left, 4 * MIB) == 0);
	target_ready(&target);
	target_wait(&target);

	check_shared(pool.table);
	for (int i = 0; i < CHILDREN; i++)
		await(looked[0]);
	parent_checks(&pool);
	CHECK(write(write_now[1], "wwwww", CHILDREN - 1) == CHILDREN - 1);
	for (int i = 1; i < CHILDREN; i++)
		CHECK(wait(&status) > 0 && status == 0);
	return target_pass(&target);
}
