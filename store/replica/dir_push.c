#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/catalogue.h"
#include "store/idset.h"
#include "store/pageids.h"
#include "store/replica/dir.h"
#include "store/replica/dirfile.h"
#include "store/replica/runs.h"
#include "store/source.h"

#define STAGE_BYTES (3u << 20) /* read from the store in one go; less than a writer buffers */
/* A file of which this snapshot needs less than one page in so many is not counted on: what it needs is sent
 * again, and the file goes with the snapshots that need more of it. */
#define SPARSE 4u
/* Nor are small files, once there are many: what they hold is sent again in one. */
#define SMALL_PAGES	 2048u
#define SMALL_FILES_MOST 48u

struct id_list {
	struct id_range *ranges;
	size_t n, room;
	uint64_t pages;
};

struct push {
	struct dir_replica *r;
	struct dir_job job;
	const struct replica_hold *hold;
	struct store *store;
	const struct replica_watch *watch;
	struct snapshot_info info;
	Snap__Snapshot *model;
	struct job_info record;
	struct store_session *pin; /* the snapshot's pages stay while we read */
	struct id_list needed, missing;
	Rep__Manifest *manifest;
	struct page_source source;
	struct packfile_writer *writer;
	char writing[PACKFILE_NAME];
	uint64_t nonce;
	unsigned n_files;
	struct replica_stats stats;
};

/* ---- what it consists of ------------------------------------------------------------------- */

static int list_add(struct id_list *list, uint64_t first, uint64_t end, struct err *err)
{
	struct id_range *last = list->n ? &list->ranges[list->n - 1] : NULL;

	list->pages += end - first;
	if (last && last->end == first) {
		last->end = end;
		return 0;
	}
	if (list->n == list->room) {
		size_t room = list->room ? 2 * list->room : 256;
		struct id_range *more = reallocarray(list->ranges, room, sizeof(*more));

		if (!more)
			return err_sys(err, "the pages of a snapshot");
		list->ranges = more;
		list->room = room;
	}
	list->ranges[list->n++] = (struct id_range){first, end};
	return 0;
}

static int compare_ranges(const void *a, const void *b)
{
	const struct id_range *x = a, *y = b;

	return (x->first > y->first) - (x->first < y->first);
}

/* Ascending, each id once. */
static void list_sort(struct id_list *list)
{
	size_t n = 0;

	list->pages = 0;
	if (!list->n)
		return;
	qsort(list->ranges, list->n, sizeof(*list->ranges), compare_ranges);
	for (size_t i = 0; i < list->n; i++) {
		struct id_range range = list->ranges[i];

		if (n && range.first < list->ranges[n - 1].end)
			range.first = list->ranges[n - 1].end;
		if (range.first >= range.end)
			continue;
		list->pages += range.end - range.first;
		if (n && list->ranges[n - 1].end == range.first)
			list->ranges[n - 1].end = range.end;
		else
			list->ranges[n++] = range;
	}
	list->n = n;
}

/* One run after another, neighbours that go on where the last one ended made one. */
static int walk_table(struct push *p, struct page_reader *reader, struct runs_writer *runs,
		      struct err *err)
{
	struct page_ids run = {0}, next;
	uint64_t from = 0;
	int rc;

	while ((rc = page_reader_next_ids(reader, from, &next, err)) == 1) {
		from = next.first + next.n;
		if (next.id != ID_ZERO &&
		    list_add(&p->needed, next.id, next.id + next.n, err) < 0)
			return -1;
		if (run.n && next.first == run.first + run.n &&
		    next.id == (run.id == ID_ZERO ? run.id : run.id + run.n)) {
			run.n += next.n;
			continue;
		}
		if (run.n && runs_add(runs, &run, err) < 0)
			return -1;
		run = next;
		if (from == 0)
			break;
	}
	return rc < 0 ? -1 : run.n ? runs_add(runs, &run, err) : 0;
}

static int add_table(struct push *p, uint64_t root, struct err *err)
{
	struct page_reader *reader;
	struct runs_writer runs = {0};
	Rep__Table *table = snap_append(&p->manifest->tables, &p->manifest->n_tables, Rep__Table,
					REP__TABLE__INIT);
	int rc;

	if (!table)
		return err_sys(err, "a page table");
	if (page_reader_open(&reader, p->store, root, err) < 0)
		return -1;
	rc = walk_table(p, reader, &runs, err);
	page_reader_close(reader);
	table->root = root;
	table->runs = (ProtobufCBinaryData){runs.len, runs.bytes};
	return rc;
}

static int add_tables(struct push *p, struct err *err)
{
	cleanup_free uint64_t *roots = NULL;
	size_t n;

	if (snapshot_roots(p->model, &roots, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (add_table(p, roots[i], err) < 0)
			return -1;
	list_sort(&p->needed);
	return 0;
}

/* ---- what is missing there ----------------------------------------------------------------- */

static bool is_usable(const struct known_file *file)
{
	return !file->gone && file->live * SPARSE >= file->count;
}

static void count_live(struct push *p, const struct id_range *range)
{
	struct dir_known *k = p->r->known;

	for (size_t i = known_seek(k, range->first);
	     i < k->n_ranges && k->ranges[i].first < range->end; i++) {
		uint64_t first = range->first > k->ranges[i].first ? range->first
								   : k->ranges[i].first;
		uint64_t end = range->end < k->ranges[i].end ? range->end : k->ranges[i].end;

		k->files[k->ranges[i].file].live += end - first;
	}
}

static int add_missing(struct push *p, const struct id_range *range, struct err *err)
{
	const struct dir_known *k = p->r->known;
	uint64_t at = range->first;

	for (size_t i = known_seek(k, at); i < k->n_ranges && k->ranges[i].first < range->end; i++) {
		const struct known_range *have = &k->ranges[i];

		if (!is_usable(&k->files[have->file]))
			continue;
		if (have->first > at && list_add(&p->missing, at, have->first, err) < 0)
			return -1;
		at = have->end < range->end ? have->end : range->end;
	}
	return at < range->end ? list_add(&p->missing, at, range->end, err) : 0;
}

static void merge_small(struct dir_known *k)
{
	size_t small = 0;

	for (size_t i = 0; i < k->n_files; i++)
		small += k->files[i].live && is_usable(&k->files[i]) &&
			 k->files[i].count < SMALL_PAGES;
	for (size_t i = 0; i < k->n_files && small > SMALL_FILES_MOST; i++)
		if (k->files[i].count < SMALL_PAGES)
			k->files[i].gone = true;
}

static int find_missing(struct push *p, struct err *err)
{
	for (size_t i = 0; i < p->needed.n; i++)
		count_live(p, &p->needed.ranges[i]);
	merge_small(p->r->known);
	for (size_t i = 0; i < p->needed.n; i++)
		if (add_missing(p, &p->needed.ranges[i], err) < 0)
			return -1;
	return 0;
}

static int name_packs(struct push *p, struct err *err)
{
	const struct dir_known *k = p->r->known;

	for (size_t i = 0; i < k->n_files; i++)
		if (k->files[i].live && is_usable(&k->files[i]) &&
		    snap_append_bytes(&p->manifest->packs, &p->manifest->n_packs, k->files[i].name,
				      strlen(k->files[i].name)) < 0)
			return err_sys(err, "a manifest");
	return 0;
}

/* ---- sending ------------------------------------------------------------------------------- */

static int begin_file(struct push *p, struct err *err)
{
	struct packfile_tag tag = {.time = p->info.time, .generation = p->info.generation};

	memcpy(tag.origin, p->store->uuid, sizeof(tag.origin));
	snprintf(p->writing, sizeof(p->writing), "%016" PRIx64 "-%016" PRIx64 "-%u", p->info.time,
		 p->nonce, p->n_files++);
	return packfile_create(&p->writer, p->job.packs, p->writing, &tag, &p->r->secret, err);
}

static int end_file(struct push *p, struct err *err)
{
	struct dir_known *k = p->r->known;
	struct packfile file;
	int rc;

	if (!p->writer)
		return 0;
	if (packfile_finish(steal_ptr(&p->writer), err) < 0)
		return -1;
	/* What was written is what a reader will find. */
	if (packfile_open(&file, p->job.packs, p->writing, &p->r->secret, err) < 0)
		return -1;
	rc = known_add(k, &file, err);
	packfile_close(&file);
	if (rc == 0)
		k->files[k->n_files - 1].live = k->files[k->n_files - 1].count;
	return rc;
}

/* A damaged page must not travel: each is checked as it is read. */
static int copy_page(struct push *p, uint64_t id, struct err *err)
{
	uint8_t page[STORE_PAGE_SIZE];
	struct pack_entry entry;
	uint32_t i;

	if (source_find(&p->source, id, &i, err) < 0 ||
	    pack_page(&p->source.view, i, &p->store->secret, p->source.dctx, page, err) < 0)
		return -1;
	entry = pack_entry(&p->source.view, i);
	p->stats.bytes += entry.len;
	p->stats.pages++;
	return packfile_add(p->writer, &entry, p->source.view.bytes + entry.offset, err);
}

/* Some pages in one read transaction, which ends before anything may wait for the replica. */
static int copy_some(struct push *p, size_t *range, uint64_t *id, struct err *err)
{
	uint64_t before = p->stats.bytes;
	int rc = source_begin(&p->source, err);

	while (rc == 0 && *range < p->missing.n && p->stats.bytes - before < STAGE_BYTES) {
		if (*id < p->missing.ranges[*range].first)
			*id = p->missing.ranges[*range].first;
		rc = copy_page(p, *id, err);
		if (++*id >= p->missing.ranges[*range].end)
			++*range;
	}
	source_end(&p->source);
	return rc == 0 ? packfile_flush(p->writer, err) : -1;
}

static int send_missing(struct push *p, struct err *err)
{
	uint64_t id = 0;
	size_t range = 0;

	while (range < p->missing.n) {
		if (replica_cancelled(p->watch))
			return err_set(err, ERR_GONE, "the transfer was given up");
		if (!p->writer && begin_file(p, err) < 0)
			return -1;
		if (copy_some(p, &range, &id, err) < 0)
			return -1;
		if (packfile_size(p->writer) >= PACKFILE_BYTES && end_file(p, err) < 0)
			return -1;
		if (p->watch && p->watch->progress)
			p->watch->progress(p->watch->ctx, p->stats.pages * STORE_PAGE_SIZE,
					   p->missing.pages * STORE_PAGE_SIZE);
	}
	return end_file(p, err);
}

static int send_streams(struct push *p, struct err *err)
{
	uint64_t length = p->model->capsule ? p->model->capsule->log_bytes : 0;
	char path[PATH_MAX];

	store_job_log_path(p->store, &p->record, path, sizeof(path));
	if (stream_push(p->r, &p->job, path, length, p->watch, &p->manifest->log, &p->stats.bytes,
			err) < 0)
		return -1;
	store_job_stdin_path(p->store, &p->record, path, sizeof(path));
	return stream_push(p->r, &p->job, path, UINT64_MAX, p->watch, &p->manifest->input,
			   &p->stats.bytes, err);
}

/* ---- publishing ---------------------------------------------------------------------------- */

static int describe_job(struct push *p, struct err *err)
{
	cleanup_free ProtobufCBinaryData *texts =
		calloc(p->record.argc + p->record.n_options + 1, sizeof(*texts));
	cleanup_free uint8_t *bytes = NULL;
	Rep__Job borrowed;

	if (!texts)
		return err_sys(err, "the job's record");
	job_to_message(&p->record, texts, &borrowed);
	bytes = malloc(rep__job__get_packed_size(&borrowed) + 1);
	if (!bytes)
		return err_sys(err, "the job's record");
	p->manifest->job = rep__job__unpack(NULL, rep__job__pack(&borrowed, bytes), bytes);
	return p->manifest->job ? 0 : err_sys(err, "the job's record");
}

static int describe(struct push *p, struct err *err)
{
	const struct snapshot_info *info = &p->info;
	Rep__Manifest *m = p->manifest;

	m->parent = info->parent;
	m->time = info->time;
	m->generation = info->generation;
	m->pause_us = info->pause_us;
	m->wall_us = info->wall_us;
	m->pages_resident = info->pages_resident;
	m->pages_candidate = info->pages_candidate;
	m->pages_changed = info->pages_changed;
	m->bytes_raw = info->bytes_raw;
	m->bytes_stored = info->bytes_stored;
	m->final = info->final;
	m->processes = info->processes;
	m->threads = info->threads;
	m->model.len = snap__snapshot__get_packed_size(p->model);
	m->model.data = malloc(m->model.len + 1);
	if (!m->model.data)
		return err_sys(err, "a manifest");
	snap__snapshot__pack(p->model, m->model.data);
	if (set_bytes(&m->tracker, info->tracker, strlen(info->tracker), err) < 0 ||
	    set_bytes(&m->origin, p->store->uuid, sizeof(p->store->uuid), err) < 0 ||
	    set_bytes(&m->secret, p->store->secret.bytes, sizeof(p->store->secret.bytes), err) < 0)
		return -1;
	return describe_job(p, err);
}

/* Its own number where that is free. */
static uint64_t number_for(const Rep__Head *head, uint64_t seq)
{
	return head_find(head, seq) ? head_find(head, 0)->seq + 1 : seq;
}

static int put_manifest(struct push *p, const Rep__Head *head, char name[64], struct err *err)
{
	cleanup_free uint8_t *bytes = NULL;
	size_t len;

	p->manifest->seq = number_for(head, p->info.seq);
	snprintf(name, 64, "%" PRIu64 "-%016" PRIx64, p->manifest->seq, p->nonce);
	if (manifest_pack(p->r, p->hold->job, p->manifest, &bytes, &len, err) < 0 ||
	    dirfile_put(p->job.snapshots, name, bytes, len, err) < 0)
		return err_wrap(err, "snapshots");
	p->stats.bytes += len;
	return 0;
}

static int fill_entry(struct push *p, Rep__Entry *e, const char *name, struct err *err)
{
	e->seq = p->manifest->seq;
	e->generation = p->info.generation;
	e->time = p->info.time;
	e->bytes = p->stats.bytes;
	e->final = p->info.final;
	if (set_bytes(&e->manifest, name, strlen(name), err) < 0)
		return -1;
	return set_bytes(&e->origin, p->store->uuid, sizeof(p->store->uuid), err);
}

/* The array is as long as what was unpacked. */
static Rep__Entry *append_entry(Rep__Head *head)
{
	Rep__Entry **more = reallocarray(head->snapshots, head->n_snapshots + 1, sizeof(*more));
	Rep__Entry *entry;

	if (!more || !(head->snapshots = more, entry = malloc(sizeof(*entry))))
		return NULL;
	rep__entry__init(entry);
	return head->snapshots[head->n_snapshots++] = entry;
}

/* Called again where somebody was quicker: then the number may be taken meanwhile. */
static int add_entry(void *ctx, Rep__Head *head, struct err *err)
{
	struct push *p = ctx;
	Rep__Entry *entry;
	char name[64];

	if (put_manifest(p, head, name, err) < 0)
		return -1;
	entry = append_entry(head);
	if (!entry)
		return err_sys(err, "the list of snapshots");
	for (size_t i = head->n_snapshots - 1;
	     i > 0 && head->snapshots[i - 1]->seq > p->manifest->seq; i--) {
		head->snapshots[i] = head->snapshots[i - 1];
		head->snapshots[i - 1] = entry;
	}
	if (head->job && head->job->generation < p->info.generation)
		head->job->generation = p->info.generation;
	return fill_entry(p, entry, name, err) < 0 ? -1 : 1;
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int open_snapshot(struct push *p, uint64_t seq, struct err *err)
{
	const char *job = p->hold->job;

	p->manifest = malloc(sizeof(*p->manifest));
	if (!p->manifest)
		return err_sys(err, "a manifest");
	rep__manifest__init(p->manifest);

	if (store_job_get(p->store, job, &p->record, err) < 0 ||
	    store_snapshot_load(p->store, job, seq, &p->info, &p->model, err) < 0 ||
	    session_begin(&p->pin, p->store, job, p->info.seq, CODEC_LZ4, err) < 0)
		return -1;
	if (getrandom(&p->nonce, sizeof(p->nonce), 0) != sizeof(p->nonce))
		return err_sys(err, "random number");
	return source_open(&p->source, p->store, err);
}

static const Rep__Entry *find_same(const Rep__Head *head, const struct snapshot_info *info)
{
	for (size_t i = 0; i < head->n_snapshots; i++)
		if (head->snapshots[i]->time == info->time &&
		    head->snapshots[i]->generation == info->generation)
			return head->snapshots[i];
	return NULL;
}

static int push(struct push *p, uint64_t seq, struct err *err)
{
	cleanup_head Rep__Head *head = NULL;
	const Rep__Entry *same;

	if (dir_job_open(p->r, p->hold->job, false, &p->job, err) < 0 ||
	    head_read(p->r, &p->job, p->hold->job, &head, err) < 0 ||
	    head_check_hold(head, p->hold, err) < 0 || open_snapshot(p, seq, err) < 0)
		return -1;
	same = find_same(head, &p->info);
	if (same) {
		p->stats.seq = same->seq;
		return 0;
	}
	if (known_refresh(p->r, &p->job, p->hold->job, head, p->store, err) < 0 ||
	    add_tables(p, err) < 0 || find_missing(p, err) < 0 || send_missing(p, err) < 0 ||
	    name_packs(p, err) < 0 || send_streams(p, err) < 0 || describe(p, err) < 0 ||
	    head_update(p->r, &p->job, p->hold, add_entry, p, err) < 0)
		return -1;
	p->stats.seq = p->manifest->seq;
	return 0;
}

static void clear(struct push *p)
{
	packfile_abandon(p->writer);
	source_close(&p->source);
	session_abort(p->pin);
	if (p->model)
		snap__snapshot__free_unpacked(p->model, NULL);
	job_info_clear(&p->record);
	free(p->needed.ranges);
	free(p->missing.ranges);
	rep__manifest__free_unpacked(p->manifest, NULL);
	dir_job_close(&p->job);
}

int dir_push(void *self, const struct replica_hold *hold, struct store *store, uint64_t seq,
	     const struct replica_watch *watch, struct replica_stats *ret, struct err *err)
{
	struct push p = {
		.r = self,
		.job = DIR_JOB_NONE,
		.hold = hold,
		.store = store,
		.watch = watch,
	};
	int rc = push(&p, seq, err);

	clear(&p);
	if (rc < 0)
		return -1;
	*ret = p.stats;
	return 0;
}
