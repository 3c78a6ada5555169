#include <time.h>

#include "store/base/io.h"
#include "store_fixture.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "store/base/io.h"

#define MUST(rc)                                                                        \
	do {                                                                            \
		if ((rc) < 0) {                                                         \
			fprintf(stderr, "%s: %s\n", #rc, err.msg);                      \
			abort();                                                        \
		}                                                                       \
	} while (0)

const char *fixture_dir(void)
{
	static char path[256];
	const char *tmp = getenv("TMPDIR");

	snprintf(path, sizeof(path), "%s/pawl-unit-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(path)) {
		perror(path);
		abort();
	}
	return path;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

void fixture_remove(const char *dir)
{
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

struct store *fixture_open(const char *dir, const char *job)
{
	struct store *store;
	struct err err;
	int lock;

	MUST(store_open(&store, dir, STORE_CREATE, &err));
	if (job) {
		MUST(store_job_lock(store, job, &lock, &err));
		store_job_unlock(lock);
	}
	return store;
}

uint64_t fixture_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void fixture_page(void *page, uint64_t seed)
{
	uint64_t word, state = seed;
	size_t i;

	memset(page, 0, PAGE);
	for (i = 0; seed && i < PAGE / 2; i += sizeof(word)) {
		word = fixture_random(&state);
		memcpy((char *)page + i, &word, sizeof(word));
	}
}

struct image image_new(uint64_t n, uint64_t seed)
{
	struct image image = {n, calloc(n, sizeof(uint64_t))};
	uint64_t i;

	for (i = 0; i < n; i++)
		image.seed[i] = seed ? seed + i * 7919 : 0;
	return image;
}

void image_free(struct image *image)
{
	free(image->seed);
	*image = (struct image){0};
}

void image_change(struct image *image, uint64_t changes, uint64_t *random)
{
	while (changes-- > 0)
		image->seed[fixture_random(random) % image->n] = fixture_random(random);
}

Snap__Snapshot *fixture_model(uint64_t root)
{
	Snap__Snapshot *model = malloc(sizeof(*model));
	Snap__Process *process;

	*model = (Snap__Snapshot)SNAP__SNAPSHOT__INIT;
	process = snap_append(&model->processes, &model->n_processes, Snap__Process,
			      SNAP__PROCESS__INIT);
	process->pid = 2;
	process->pages_root = root;
	snap_set_string(&process->cwd, "/tmp");
	return model;
}

static uint64_t root_of(struct store *store, const char *job, uint64_t seq)
{
	Snap__Snapshot *model;
	uint64_t root;
	struct err err;

	if (!seq)
		return 0;
	MUST(store_snapshot_load(store, job, seq, NULL, &model, &err));
	root = model->processes[0]->pages_root;
	snap__snapshot__free_unpacked(model, NULL);
	return root;
}

struct snapshot_info image_save(struct store *store, const char *job, uint64_t parent,
				const struct image *image, const struct image *old, uint64_t base)
{
	struct snapshot_info info = {.time = clock_ns(CLOCK_REALTIME), .processes = 1, .threads = 1};
	struct store_session *session;
	struct page_table *table;
	Snap__Snapshot *model;
	char page[PAGE];
	uint64_t i, root;
	struct err err;

	MUST(session_begin(&session, store, job, parent, CODEC_LZ4, &err));
	MUST(page_table_edit(&table, session, root_of(store, job, parent), &err));
	for (i = 0; i < image->n; i++) {
		if (old && i < old->n && old->seed[i] == image->seed[i])
			continue;
		fixture_page(page, image->seed[i]);
		MUST(page_table_put(table, base + i, page, 1, NULL, &err));
	}
	MUST(page_table_finish(table, &root, &err));
	model = fixture_model(root);
	MUST(session_publish(session, model, &info, &err));
	snap__snapshot__free_unpacked(model, NULL);
	return info;
}

static bool same(struct page_reader *reader, const struct image *image, uint64_t base,
		 struct err *err)
{
	char page[PAGE], expected[PAGE];
	uint64_t i;

	for (i = 0; i < image->n; i++) {
		if (page_reader_read(reader, base + i, 1, page, err) < 0)
			return false;
		fixture_page(expected, image->seed[i]);
		if (memcmp(page, expected, PAGE) != 0) {
			err_set(err, ERR_CORRUPT, "page %llu differs", (unsigned long long)i);
			return false;
		}
	}
	return true;
}

bool image_equals(struct store *store, const char *job, uint64_t seq, const struct image *image,
		  uint64_t base, struct err *err)
{
	struct page_reader *reader;
	Snap__Snapshot *model;
	bool equal;

	if (store_snapshot_load(store, job, seq, NULL, &model, err) < 0)
		return false;
	if (page_reader_open(&reader, store, model->processes[0]->pages_root, err) < 0) {
		snap__snapshot__free_unpacked(model, NULL);
		return false;
	}
	equal = same(reader, image, base, err);
	page_reader_close(reader);
	snap__snapshot__free_unpacked(model, NULL);
	return equal;
}

static void print_problem(void *ctx, const char *job, uint64_t seq, const char *line)
{
	fprintf(stderr, "%s@%llu: %s\n", job, (unsigned long long)seq, line);
}

uint64_t fixture_problems(struct store *store)
{
	uint64_t problems;
	struct err err;

	MUST(store_verify(store, NULL, 0, print_problem, NULL, &problems, &err));
	return problems;
}

int fixture_set_up(void **state)
{
	char *dir = strdup(fixture_dir());

	*state = fixture_open(dir, "job");
	free(dir);
	return 0;
}

int fixture_tear_down(void **state)
{
	char *dir = strdup(store_dir(*state));

	store_close(*state);
	fixture_remove(dir);
	free(dir);
	return 0;
}
