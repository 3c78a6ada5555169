/*
 * maps.c: every kind of region comes back where it was, with its protection, flags and content.
 * With variant "shared" also shared anonymous memory.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE	 4096ul
#define MIB	 (1ul << 20)
#define N_MOST	 32
#define TEXT_MAX 1024

/* One region under test: what it held and how smaps described it when the target became ready. */
struct area {
	const char *name;
	char *start;
	size_t len;
	uint64_t seed; /* pattern it holds; 0: content is not looked at */
	char text[TEXT_MAX];
};

struct areas {
	struct area area[N_MOST];
	size_t n;
};

static struct area *add(struct areas *all, const char *name, char *start, size_t len, uint64_t seed)
{
	struct area *a = &all->area[all->n++];

	CHECK(start != MAP_FAILED && all->n <= N_MOST);
	a->name = name;
	a->start = start;
	a->len = len;
	a->seed = seed;
	if (seed)
		pattern_fill(start, len, seed);
	return a;
}

static char *map(size_t len, int prot, int flags, int fd, off_t offset)
{
	return mmap(NULL, len, prot, flags, fd, offset);
}

static char *map_private(size_t len, int flags)
{
	return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static int make_file(const struct target *t, const char *name, size_t len)
{
	char *path = target_path(t, name), *data = malloc(len);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	pattern_fill(data, len, 17);
	CHECK(fd >= 0 && write(fd, data, len) == (ssize_t)len);
	free(data);
	free(path);
	return fd;
}

static void add_anonymous(struct areas *all)
{
	char *p;

	add(all, "anonymous", map_private(2 * MIB, 0), 2 * MIB, 100);
	p = add(all, "read-only", map_private(MIB, 0), MIB, 101)->start;
	CHECK(mprotect(p, MIB, PROT_READ) == 0);
	p = add(all, "PROT_NONE with content", map_private(MIB, 0), MIB, 102)->start;
	CHECK(mprotect(p, MIB, PROT_NONE) == 0);
	add(all, "PROT_NONE reserve",
	    map(64 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), 64 * MIB,
	    0);
	p = add(all, "executable", map_private(PAGE, 0), PAGE, 103)->start;
	CHECK(mprotect(p, PAGE, PROT_READ | PROT_EXEC) == 0);
	p = map_private(16 * PAGE, MAP_GROWSDOWN);
	add(all, "grows down", p, 16 * PAGE, 104);
	add(all, "noreserve", map_private(MIB, MAP_NORESERVE), MIB, 105);
	p = map_private(MIB, 0);
	pattern_fill(p, MIB, 106);
	p = mremap(p, MIB, 3 * MIB, MREMAP_MAYMOVE);
	add(all, "mremapped", p, MIB, 106)->len = 3 * MIB;
	p = map_private(3 * PAGE, 0);
	add(all, "left of a hole", p, PAGE, 107);
	add(all, "right of a hole", p + 2 * PAGE, PAGE, 108);
	CHECK(munmap(p + PAGE, PAGE) == 0);
	p = map_private(MIB, 0);
	add(all, "named", p, MIB, 109);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, MIB, "pawl test"); /* where the kernel has it */
}

static void add_advised(struct areas *all)
{
	static const struct {
		const char *name;
		int advice;
	} kinds[] = {
		{"huge pages", MADV_HUGEPAGE},	 {"no huge pages", MADV_NOHUGEPAGE},
		{"dontfork", MADV_DONTFORK},	 {"dontdump", MADV_DONTDUMP},
		{"wipeonfork", MADV_WIPEONFORK}, {"mergeable", MADV_MERGEABLE},
		{"sequential", MADV_SEQUENTIAL}, {"random", MADV_RANDOM},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		/* A PROT_NONE page before and after, lest the kernel merge it with a neighbour. */
		char *p = map(4 * MIB + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(p != MAP_FAILED);
		CHECK(mprotect(p + PAGE, 4 * MIB, PROT_READ | PROT_WRITE) == 0);
		if (madvise(p + PAGE, 4 * MIB, kinds[i].advice) < 0)
			CHECK_EQ(errno, EINVAL); /* not built into this kernel */
		add(all, kinds[i].name, p + PAGE, 4 * MIB, 200 + i);
	}
	char *p = add(all, "partly dropped", map_private(MIB, 0), MIB, 220)->start;
	CHECK(madvise(p + MIB / 2, MIB / 2, MADV_DONTNEED) == 0);
}

static void add_files(const struct target *t, struct areas *all)
{
	int fd = make_file(t, "mapped", 16 * PAGE);
	char *p;

	add(all, "private file, untouched", map(8 * PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE),
	    8 * PAGE, 0);
	p = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 2 * PAGE);
	add(all, "private file, written", p, 4 * PAGE, 300)->len = 8 * PAGE;
	p = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 12 * PAGE);
	add(all, "shared file", p, 4 * PAGE, 301);
	p = map(4 * PAGE, PROT_READ, MAP_SHARED, fd, 12 * PAGE);
	add(all, "shared file, read-only view", p, 4 * PAGE, 0);
	CHECK(pattern_holds(p, 4 * PAGE, 301));
	close(fd);
}

static void add_memory_files(const struct target *t, struct areas *all)
{
	int fd = memfd_create("pawl-test", MFD_CLOEXEC);
	char *p;

	CHECK(fd >= 0 && ftruncate(fd, MIB) == 0);
	add(all, "memfd", map(MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MIB, 400);
	p = map(MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	add(all, "memfd, private", p, MIB / 2, 401)->len = MIB;
	if (!strcmp(t->variant, "shared")) {
		p = map(MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		add(all, "shared anonymous", p, MIB, 402);
	}
}

/* VmFlags that the user set, without those that kernel or checkpointer set by themselves. */
static void keep_flags(const char *line, char *ret)
{
	static const char *const kept = "rd wr ex sh gd nr lo lf dc dd wf hg nh mg sr rr ";
	char copy[TEXT_MAX];

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *save, *word = strtok_r(copy, " \n", &save); word;
	     word = strtok_r(NULL, " \n", &save))
		if (strlen(word) == 2 && strstr(kept, word))
			strcat(strcat(ret, word), " ");
}

/* "perms offset flags" of all the smaps entries within the area, in order. */
static void describe(const struct area *a, char ret[TEXT_MAX])
{
	char line[TEXT_MAX], perms[8];
	unsigned long start, end, offset;
	bool inside = false;
	FILE *smaps = fopen("/proc/self/smaps", "re");

	CHECK(smaps);
	ret[0] = '\0';
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx %7s %lx ", &start, &end, perms, &offset) == 4) {
			inside = start < (unsigned long)(a->start + a->len) &&
				 end > (unsigned long)a->start;
			if (inside)
				sprintf(ret + strlen(ret), "%s %lx ", perms, offset);
		} else if (inside && !strncmp(line, "VmFlags:", 8)) {
			keep_flags(line + 8, ret + strlen(ret));
		}
	}
	fclose(smaps);
}

static void check_text(const struct area *a)
{
	char now[TEXT_MAX];

	describe(a, now);
	if (strcmp(now, a->text)) {
		fprintf(stderr, "%s: was %s\n%s: is  %s\n", a->name, a->text, a->name, now);
		target_fail(__FILE__, __LINE__, a->name, 0, 0);
	}
}

static size_t pattern_len(const struct area *a)
{
	if (!strcmp(a->name, "mremapped"))
		return MIB;
	if (!strcmp(a->name, "private file, written"))
		return 4 * PAGE;
	if (!strcmp(a->name, "partly dropped") || !strcmp(a->name, "memfd, private"))
		return MIB / 2;
	return a->len;
}

static void check_content(const struct area *a)
{
	if (!a->seed)
		return;
	CHECK(mprotect(a->start, a->len, PROT_READ) == 0);
	if (!pattern_holds(a->start, pattern_len(a), a->seed))
		target_fail(__FILE__, __LINE__, a->name, (long long)a->seed, 0);
}

static struct area *find(struct areas *all, const char *name)
{
	for (size_t i = 0; i < all->n; i++)
		if (!strcmp(all->area[i].name, name))
			return &all->area[i];
	abort();
}

/* What content alone does not show: sharing, growth, rests of files, zeroes. */
static void check_behaviour(const struct target *t, struct areas *all)
{
	char *view = find(all, "shared file, read-only view")->start;
	char *rest = find(all, "private file, written")->start + 4 * PAGE;
	char *dropped = find(all, "partly dropped")->start + MIB / 2;
	char *shared = find(all, "shared file")->start, *path = target_path(t, "mapped"), back = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	CHECK(pattern_holds(view, 4 * PAGE, 301));
	CHECK(pattern_holds(rest, 4 * PAGE, 17 + 6 * PAGE / 8));
	CHECK(pattern_holds(find(all, "private file, untouched")->start, 8 * PAGE, 17 + PAGE / 8));
	CHECK(dropped[0] == 0 && dropped[MIB / 2 - 1] == 0);
	CHECK(mprotect(shared, PAGE, PROT_READ | PROT_WRITE) == 0);
	shared[3]++;
	CHECK(view[3] == shared[3]);
	CHECK(fd >= 0 && pread(fd, &back, 1, 12 * PAGE + 3) == 1 && back == shared[3]);
	close(fd);
	free(path);
}

int main(int argc, char **argv)
{
	static struct areas all;
	struct target target;
	size_t heap_len = 3 * MIB;
	char *heap = sbrk((intptr_t)heap_len);

	target_start(&target, argc, argv);
	pattern_fill(heap, heap_len, 500);
	add_anonymous(&all);
	add_advised(&all);
	add_files(&target, &all);
	add_memory_files(&target, &all);
	for (size_t i = 0; i < all.n; i++)
		describe(&all.area[i], all.area[i].text);
	target_ready(&target);
	target_wait(&target);

	for (size_t i = 0; i < all.n; i++)
		check_text(&all.area[i]);
	for (size_t i = 0; i < all.n; i++)
		check_content(&all.area[i]);
	check_behaviour(&target, &all);
	CHECK(pattern_holds(heap, heap_len, 500));
	CHECK(sbrk(MIB) != (void *)-1);
	return target_pass(&target);
}
