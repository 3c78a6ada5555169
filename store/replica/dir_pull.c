#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/node.h"
#include "store/replica/dir.h"
#include "store/replica/dirfile.h"
#include "store/replica/runs.h"

#define PULL_PAGES 256u	       /* read at once: 1 MiB */
#define PAGES_MOST (1ull << 34) /* of a table: a run of zeroes costs nothing to write */

struct pull {
	struct dir_replica *r;
	struct dir_job job;
	const char *name;
	struct store *store;
	const struct replica_watch *watch;
	Rep__Manifest *manifest;
	Snap__Snapshot *model;
	struct job_info record;
	struct store_secret origin_secret;
	struct packfile *files;
	size_t n_files, last; /* last: the file that the last page was in */
	void *dctx;
	uint8_t *pages;
	struct store_session *session;
	uint64_t *new_roots; /* by index in the manifest's tables */
	struct replica_stats stats;
};

/* ---- opening ------------------------------------------------------------------------------- */

static int open_files(struct pull *p, struct err *err)
{
	const Rep__Manifest *m = p->manifest;

	p->files = calloc(m->n_packs + 1, sizeof(*p->files));
	if (!p->files)
		return err_sys(err, "files of pages");
	for (size_t i = 0; i < m->n_packs; i++) {
		char name[PACKFILE_NAME];

		snprintf(name, sizeof(name), "%.*s", (int)m->packs[i].len,
			 (const char *)m->packs[i].data);
		if (packfile_open(&p->files[i], p->job.packs, name, &p->r->secret, err) < 0)
			return -1;
		p->n_files++;
		if (memcmp(p->files[i].tag.origin, m->origin.data, 16) != 0)
			return err_set(err, ERR_CORRUPT, "packs/%s holds pages of another store",
				       name);
	}
	return 0;
}

static int open_snapshot(struct pull *p, uint64_t seq, struct err *err)
{
	cleanup_head Rep__Head *head = NULL;
	const Rep__Entry *entry;

	if (dir_job_open(p->r, p->name, false, &p->job, err) < 0 ||
	    head_read(p->r, &p->job, p->name, &head, err) < 0)
		return -1;
	entry = head_find(head, seq);
	if (!entry && seq)
		return err_set(err, ERR_NOT_FOUND, "there is no snapshot %s@%" PRIu64, p->name, seq);
	if (!entry)
		return err_set(err, ERR_NOT_FOUND, "job '%s' has no snapshot", p->name);
	if (manifest_read(p->r, &p->job, p->name, entry, &p->manifest, err) < 0 ||
	    job_from_message(head->job, p->name, &p->record, err) < 0)
		return -1;
	p->model = snap__snapshot__unpack(NULL, p->manifest->model.len, p->manifest->model.data);
	if (!p->model)
		return err_set(err, ERR_CORRUPT, "snapshot %s@%" PRIu64 ": its model does not decode",
			       p->name, entry->seq);
	memcpy(p->origin_secret.bytes, p->manifest->secret.data, sizeof(p->origin_secret.bytes));
	return 0;
}

/* ---- pages --------------------------------------------------------------------------------- */

/* Index of the entry of id in the file that has it, which becomes p->last. */
static int64_t find_page(struct pull *p, uint64_t id)
{
	int64_t i = p->n_files ? packfile_find(&p->files[p->last], id) : -1;

	for (size_t f = 0; i < 0 && f < p->n_files; f++) {
		i = packfile_find(&p->files[f], id);
		if (i >= 0)
			p->last = f;
	}
	return i;
}

/* The pages of ids id, id+1 … that lie together in one file: how many of at most n, into p->pages. */
static int fetch_some(struct pull *p, uint64_t id, uint64_t n, uint32_t *ret, struct err *err)
{
	int64_t first = find_page(p, id);
	const struct packfile *file;
	uint32_t count = 1;

	if (first < 0)
		return err_set(err, ERR_CORRUPT, "page %" PRIu64 " is missing", id);
	file = &p->files[p->last];
	while (count < n && count < PULL_PAGES && (uint64_t)first + count < file->count &&
	       packfile_entry(file, (uint32_t)first + count).id == id + count)
		count++;
	if (packfile_read(file, (uint32_t)first, count, &p->origin_secret, p->dctx, p->pages, err) <
	    0)
		return -1;
	*ret = count;
	return 0;
}

static int pull_run(struct pull *p, struct page_table *table, struct page_ids run, struct err *err)
{
	while (run.n > 0) {
		uint32_t n = run.n < PULL_PAGES ? (uint32_t)run.n : PULL_PAGES;

		if (replica_cancelled(p->watch))
			return err_set(err, ERR_GONE, "the transfer was given up");
		if (run.id == ID_ZERO)
			memset(p->pages, 0, (size_t)n * STORE_PAGE_SIZE);
		else if (fetch_some(p, run.id, run.n, &n, err) < 0)
			return -1;
		if (page_table_put(table, run.first, p->pages, n, NULL, err) < 0)
			return -1;
		run.first += n;
		run.n -= n;
		run.id += run.id == ID_ZERO ? 0 : n;
		p->stats.pages += n;
		p->stats.bytes += (uint64_t)n * STORE_PAGE_SIZE;
	}
	return 0;
}

static int pull_table(struct pull *p, const Rep__Table *from, uint64_t *ret_root, struct err *err)
{
	struct page_table *table;
	struct runs_reader runs;
	struct page_ids run;
	uint64_t pages = 0;
	int rc;

	if (page_table_edit(&table, p->session, 0, err) < 0)
		return -1;
	runs_open(&runs, from->runs.data, from->runs.len);
	while ((rc = runs_next(&runs, &run, err)) == 1) {
		if (run.n > PAGES_MOST || (pages += run.n) > PAGES_MOST)
			rc = err_set(err, ERR_CORRUPT, "a page table is out of bounds");
		else
			rc = pull_run(p, table, run, err);
		if (rc < 0)
			break;
	}
	if (rc < 0) {
		page_table_free(table);
		return -1;
	}
	return page_table_finish(table, ret_root, err);
}

static int pull_tables(struct pull *p, struct err *err)
{
	const Rep__Manifest *m = p->manifest;

	p->new_roots = calloc(m->n_tables + 1, sizeof(*p->new_roots));
	p->pages = malloc((size_t)PULL_PAGES * STORE_PAGE_SIZE);
	p->dctx = ZSTD_createDCtx();
	if (!p->new_roots || !p->pages || !p->dctx)
		return err_sys(err, "a snapshot's pages");
	for (size_t i = 0; i < m->n_tables; i++)
		if (pull_table(p, m->tables[i], &p->new_roots[i], err) < 0)
			return -1;
	return 0;
}

static int new_root(void *ctx, uint64_t *root, struct err *err)
{
	const struct pull *p = ctx;

	if (*root == 0)
		return 0;
	for (size_t i = 0; i < p->manifest->n_tables; i++)
		if (p->manifest->tables[i]->root == *root) {
			*root = p->new_roots[i];
			return 0;
		}
	return err_set(err, ERR_CORRUPT, "its model names a page table that is not there");
}

/* ---- the whole ----------------------------------------------------------------------------- */

static void describe(const Rep__Manifest *m, struct snapshot_info *ret)
{
	*ret = (struct snapshot_info){
		.seq = m->seq,
		.parent = m->parent,
		.time = m->time,
		.generation = m->generation,
		.pause_us = m->pause_us,
		.wall_us = m->wall_us,
		.pages_resident = m->pages_resident,
		.pages_candidate = m->pages_candidate,
		.pages_changed = m->pages_changed,
		.bytes_raw = m->bytes_raw,
		.final = m->final,
		.processes = m->processes,
		.threads = m->threads,
	};
	snprintf(ret->tracker, sizeof(ret->tracker), "%.*s", (int)m->tracker.len,
		 m->tracker.len ? (const char *)m->tracker.data : "");
}

static int pull_streams(struct pull *p, struct err *err)
{
	struct job_info here;
	char path[PATH_MAX];
	int rc = 0;

	if (store_job_get(p->store, p->name, &here, err) < 0)
		return -1;
	store_job_log_path(p->store, &here, path, sizeof(path));
	if (p->manifest->log)
		rc = stream_pull(p->r, &p->job, path, p->manifest->log, p->watch, err);
	store_job_stdin_path(p->store, &here, path, sizeof(path));
	if (rc == 0 && p->manifest->input)
		rc = stream_pull(p->r, &p->job, path, p->manifest->input, p->watch, err);
	job_info_clear(&here);
	return rc;
}

static int pull(struct pull *p, uint64_t seq, struct err *err)
{
	struct snapshot_info info;
	int same;

	if (open_snapshot(p, seq, err) < 0 || store_job_import(p->store, &p->record, err) < 0)
		return -1;
	same = store_snapshot_same(p->store, p->name, p->manifest->time, p->manifest->generation,
				   &p->stats.seq, err);
	if (same != 0)
		return same < 0 ? -1 : pull_streams(p, err);
	describe(p->manifest, &info);
	if (open_files(p, err) < 0 ||
	    session_begin(&p->session, p->store, p->name, 0, CODEC_LZ4, err) < 0 ||
	    pull_tables(p, err) < 0 || snap_each_root(p->model, new_root, p, err) < 0 ||
	    pull_streams(p, err) < 0)
		return -1;
	if (session_publish_import(steal_ptr(&p->session), p->model, &info, err) < 0)
		return -1;
	p->stats.seq = info.seq;
	return 0;
}

static void clear(struct pull *p)
{
	session_abort(p->session);
	for (size_t i = 0; i < p->n_files; i++)
		packfile_close(&p->files[i]);
	free(p->files);
	free(p->new_roots);
	free(p->pages);
	ZSTD_freeDCtx(p->dctx);
	if (p->model)
		snap__snapshot__free_unpacked(p->model, NULL);
	if (p->manifest)
		rep__manifest__free_unpacked(p->manifest, NULL);
	job_info_clear(&p->record);
	dir_job_close(&p->job);
}

int dir_pull(void *self, const char *job, uint64_t seq, struct store *store,
	     const struct replica_watch *watch, struct replica_stats *ret, struct err *err)
{
	struct pull p = {
		.r = self, .job = DIR_JOB_NONE, .name = job, .store = store, .watch = watch};
	int rc = pull(&p, seq, err);

	clear(&p);
	if (rc < 0)
		return -1;
	*ret = p.stats;
	return 0;
}
