/*
 * Verification: every record, node and page, each once, reported for every snapshot that needs it.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"
#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/idset.h"
#include "store/lmdbfile.h"
#include "store/pageindex.h"
#include "store/record.h"
#include "store/source.h"
#include "store/tree.h"

#define PAGE_BATCH 2048u /* pages in one read transaction */

struct verifier {
	struct store *store;
	verify_report *report;
	void *ctx;
	uint64_t problems;
	struct page_source source;
	unsigned work; /* pages and nodes since the transaction began */
	/* What was checked before, and what of it was bad: shared parts are read once. */
	struct idset pages, bad_pages, nodes, bad_nodes;
	/* Being verified: */
	const char *job;
	uint64_t seq;
	char part[600]; /* "process 2", "file /path" */
};

static void problem(struct verifier *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A snapshot may be removed, and its pages freed, while we look at it: then it has no problems. */
static bool was_removed(struct verifier *v)
{
	struct snapshot_info info;
	struct err why;

	return v->seq && store_snapshot_load(v->store, v->job, v->seq, &info, NULL, &why) < 0 &&
	       why.kind == ERR_NOT_FOUND;
}

static void problem(struct verifier *v, const char *fmt, ...)
{
	char line[1200];
	va_list ap;

	if (was_removed(v))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	v->problems++;
	if (v->report)
		v->report(v->ctx, v->job, v->seq, line);
}

static int out_of_memory(struct err *err)
{
	return err_sys(err, "verification");
}

/* A fresh read transaction now and then; 0 or -1. */
static int keep_reading(struct verifier *v, struct err *err)
{
	if (++v->work % PAGE_BATCH == 0)
		source_end(&v->source);
	return source_begin(&v->source, err);
}

/* 1: fine, 0: a problem (reported), -1: cannot go on. */
static int verify_page(struct verifier *v, uint64_t id, uint64_t index, struct err *err)
{
	uint8_t page[STORE_PAGE_SIZE];
	struct err why;
	int added;

	if (id < ID_FIRST)
		return 1;
	if (keep_reading(v, err) < 0)
		return -1;
	added = idset_add(&v->pages, id);
	if (added < 0)
		return out_of_memory(err);
	if (added == 0 && !idset_has(&v->bad_pages, id))
		return 1;
	if (source_page(&v->source, id, page, &why) == 0)
		return 1;
	if (idset_add(&v->bad_pages, id) < 0)
		return out_of_memory(err);
	problem(v, "page 0x%" PRIx64 " of %s: %s", index, v->part, why.msg);
	return 0;
}

static int verify_node(struct verifier *v, uint64_t id, int want, uint64_t base, struct err *err);

static int verify_slots(struct verifier *v, unsigned level, const uint64_t slots[NODE_SLOTS],
			uint64_t base, struct err *err)
{
	int rc, fine = 1;
	unsigned i;

	for (i = 0; i < NODE_SLOTS; i++) {
		uint64_t at = base + ((uint64_t)i << node_slot_shift(level));

		if (slots[i] == ID_ABSENT)
			continue;
		rc = level ? verify_node(v, slots[i], (int)level - 1, at, err)
			   : verify_page(v, slots[i], at, err);
		if (rc < 0)
			return -1;
		fine &= rc;
	}
	return fine;
}

/* want: the level it must have, -1: any. The root of a node that was bad
 * before is walked again, to report it for this snapshot too. */
static int verify_node(struct verifier *v, uint64_t id, int want, uint64_t base, struct err *err)
{
	uint64_t slots[NODE_SLOTS];
	unsigned level;
	struct err why;
	int rc;

	if (idset_has(&v->nodes, id) && !idset_has(&v->bad_nodes, id))
		return 1;
	if (keep_reading(v, err) < 0)
		return -1;
	if (source_node(&v->source, id, &level, slots, &why) < 0) {
		problem(v, "%s: %s (pages from 0x%" PRIx64 ")", v->part, why.msg, base);
		return 0;
	}
	if (want >= 0 && level != (unsigned)want) {
		problem(v, "%s: page table node %" PRIu64 " has level %u, not %d", v->part, id,
			level, want);
		return 0;
	}
	rc = verify_slots(v, level, slots, base, err);
	if (rc < 0)
		return -1;
	if (idset_add(&v->nodes, id) < 0 || (rc == 0 && idset_add(&v->bad_nodes, id) < 0))
		return out_of_memory(err);
	return rc;
}

static int verify_root(struct verifier *v, uint64_t root, struct err *err)
{
	return root ? verify_node(v, root, -1, 0, err) : 1;
}

/* Its pages, and that they make a tree. */
static int verify_tree(struct verifier *v, const Snap__Tree *model, struct err *err)
{
	struct tree tree;
	struct err why;
	int fine, rc;

	snprintf(v->part, sizeof(v->part), "directory %.500s", model->path);
	fine = verify_root(v, model->objects_root, err);
	rc = fine < 0 ? -1 : verify_root(v, model->contents_root, err);
	if (rc <= 0 || fine == 0)
		return rc;
	source_end(&v->source);
	if (tree_load(&tree, v->store, model, &why) == 0) {
		tree_clear(&tree);
	} else if (why.kind == ERR_CORRUPT) {
		problem(v, "%s", why.msg);
	} else {
		*err = why;
		return -1;
	}
	return 0;
}

static int verify_model(struct verifier *v, const Snap__Snapshot *model, struct err *err)
{
	size_t i;

	for (i = 0; i < model->n_processes; i++) {
		snprintf(v->part, sizeof(v->part), "process %d", model->processes[i]->pid);
		if (verify_root(v, model->processes[i]->pages_root, err) < 0)
			return -1;
	}
	for (i = 0; i < model->n_files; i++) {
		const char *path = model->files[i]->path;

		snprintf(v->part, sizeof(v->part), "file %zu%s%.500s", i, path && *path ? " " : "",
			 path ? path : "");
		if (verify_root(v, model->files[i]->content_root, err) < 0)
			return -1;
	}
	for (i = 0; i < model->n_trees; i++)
		if (verify_tree(v, model->trees[i], err) < 0)
			return -1;
	return 0;
}

static int verify_snapshot(struct verifier *v, const char *job, uint64_t seq, struct err *err)
{
	Snap__Snapshot *model;
	struct err why;
	int rc;

	v->job = job;
	v->seq = seq;
	if (store_snapshot_load(v->store, job, seq, NULL, &model, &why) < 0) {
		if (why.kind == ERR_NOT_FOUND)
			return 0; /* dropped meanwhile */
		if (why.kind != ERR_CORRUPT) {
			*err = why;
			return -1;
		}
		problem(v, "%s", why.msg);
		return 0;
	}
	rc = verify_model(v, model, err);
	source_end(&v->source);
	snap__snapshot__free_unpacked(model, NULL);
	return rc;
}

static int verify_job(struct verifier *v, const char *job, struct err *err)
{
	struct snapshot_info *list;
	size_t i, n;
	int rc = 0;

	if (store_snapshot_list(v->store, job, &list, &n, err) < 0)
		return -1;
	for (i = 0; i < n && rc == 0; i++)
		rc = verify_snapshot(v, job, list[i].seq, err);
	free(list);
	return rc;
}

/* ---- the whole store ----------------------------------------------------------------------- */

typedef void check_fn(struct verifier *v, MDB_val *key, MDB_val *value);

static void check_pack(struct verifier *v, MDB_val *key, MDB_val *value)
{
	struct pack_view view;
	uint32_t i;
	struct err why;

	if (pack_open(&view, value->mv_data, value->mv_size, get_le64(key->mv_data),
		      &v->store->secret, &why) < 0) {
		problem(v, "%s", why.msg);
		return;
	}
	for (i = 1; i < view.count; i++)
		if (pack_entry(&view, i - 1).id >= pack_entry(&view, i).id) {
			problem(v, "pack %" PRIu64 ": its pages are out of order", view.first);
			return;
		}
}

/* Records that are kept twice: each copy counts. */
static void check_doubled(struct verifier *v, MDB_val *key, MDB_val *value, uint32_t magic,
			  const struct store_secret *secret, const char *what)
{
	struct frame frame;
	struct err why;
	bool spoilt;

	if (frame_open_twice(&frame, value->mv_data, value->mv_size, magic, key->mv_data,
			     key->mv_size, secret, &spoilt, &why) < 0)
		problem(v, "record of %s: %s", what, why.msg);
	else if (spoilt)
		problem(v, "record of %s: one of its two copies is damaged", what);
}

static void check_meta(struct verifier *v, MDB_val *key, MDB_val *value)
{
	if (key->mv_size == 4 && memcmp(key->mv_data, "next", 4) == 0)
		check_doubled(v, key, value, MAGIC_NEXT, &v->store->secret, "the id counters");
	else if (key->mv_size == 5 && memcmp(key->mv_data, "store", 5) == 0)
		check_doubled(v, key, value, MAGIC_STORE, NULL, "the store");
}

static void check_message(struct verifier *v, MDB_val *key, MDB_val *value, uint32_t magic,
			  const ProtobufCMessageDescriptor *type, const char *what)
{
	ProtobufCMessage *message;
	struct err why;

	if (message_decode(v->store, key, value, magic, type, &message, &why) < 0)
		problem(v, "record of %s: %s", what, why.msg);
	else
		protobuf_c_message_free_unpacked(message, NULL);
}

static void check_job(struct verifier *v, MDB_val *key, MDB_val *value)
{
	char what[160];

	snprintf(what, sizeof(what), "job '%.*s'", (int)(key->mv_size < 128 ? key->mv_size : 128),
		 (const char *)key->mv_data);
	check_doubled(v, key, value, MAGIC_JOB, &v->store->secret, what);
}

static void check_session(struct verifier *v, MDB_val *key, MDB_val *value)
{
	check_message(v, key, value, MAGIC_SESSION, &cat__session__descriptor, "a session");
}

/* Nothing is lost with it but space. */
static void check_run(struct verifier *v, MDB_val *key, MDB_val *value)
{
	struct index_run run;
	struct err why;

	if (run_open(&run, value->mv_data, value->mv_size, get_le64(key->mv_data), &v->store->secret,
		     &why) < 0)
		problem(v, "%s (only duplicates are not found by it; gc makes it anew)", why.msg);
}

static void check_dropped(struct verifier *v, MDB_val *key, MDB_val *value)
{
	check_message(v, key, value, MAGIC_DROPPED, &cat__dropped__descriptor,
		      "a dropped snapshot");
}

/* Snapshots whose job's record is gone or damaged are not reached through their job. */
static void check_snapshot(struct verifier *v, MDB_val *key, MDB_val *value)
{
	struct snapshot_head head;
	struct snapshot_key copy;
	char job[128];
	struct err why;

	if (key->mv_size != sizeof(copy.bytes)) {
		problem(v, "a snapshot's key is damaged");
		return;
	}
	memcpy(copy.bytes, key->mv_data, sizeof(copy.bytes));
	job_name_of(v->store, v->source.txn, get_be64(copy.bytes), job, sizeof(job));
	if (strncmp(job, "job #", 5) != 0)
		return;
	problem(v, "snapshot %" PRIu64 " of %s: that job's record is not readable",
		get_be64(copy.bytes + 8), job);
	if (snapshot_head_open(&head, &copy, value->mv_data, value->mv_size, &v->store->secret,
			       &why) < 0)
		problem(v, "record of snapshot %" PRIu64 " of %s: %s", get_be64(copy.bytes + 8), job,
			why.msg);
}

/* Records of dbi, batch by batch; keys are at most 128 bytes. */
static int check_some(struct verifier *v, MDB_dbi dbi, check_fn *check, uint8_t *at, size_t *at_len,
		      struct err *err)
{
	MDB_val key = {*at_len, at}, value;
	MDB_cursor *cursor;
	unsigned n;
	int rc;

	if (source_begin(&v->source, err) < 0)
		return -1;
	rc = mdb_cursor_open(v->source.txn, dbi, &cursor);
	if (rc)
		return err_lmdb(err, rc, "verification");
	rc = mdb_cursor_get(cursor, &key, &value, *at_len ? MDB_SET_RANGE : MDB_FIRST);
	for (n = 0; rc == 0 && n < PAGE_BATCH; n++) {
		check(v, &key, &value);
		rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
	}
	if (rc == 0 && key.mv_size <= 128) {
		memcpy(at, key.mv_data, key.mv_size);
		*at_len = key.mv_size;
	}
	mdb_cursor_close(cursor);
	source_end(&v->source);
	if (rc == MDB_NOTFOUND)
		return 0;
	return rc ? err_lmdb(err, rc, "verification") : 1;
}

static int check_all(struct verifier *v, MDB_dbi dbi, check_fn *check, struct err *err)
{
	uint8_t at[128];
	size_t at_len = 0;
	int rc;

	do
		rc = check_some(v, dbi, check, at, &at_len, err);
	while (rc == 1);
	return rc;
}

static int verify_jobs(struct verifier *v, struct err *err)
{
	struct job_info *jobs;
	size_t i, n;
	int rc = 0;

	if (store_job_list(v->store, &jobs, &n, err) < 0)
		return -1;
	for (i = 0; i < n; i++) {
		/* id 0: its record is damaged, which check_job has said. */
		if (rc == 0 && jobs[i].id)
			rc = verify_job(v, jobs[i].name, err);
		if (rc < 0 && err->kind == ERR_NOT_FOUND)
			rc = 0; /* removed meanwhile */
		job_info_clear(&jobs[i]);
	}
	free(jobs);
	return rc;
}

static int verify_store(struct verifier *v, struct err *err)
{
	struct store *store = v->store;
	struct err why;

	v->job = "";
	v->seq = 0;
	if (lmdbfile_check(store, true, &why) < 0) {
		if (why.kind != ERR_CORRUPT) {
			*err = why;
			return -1;
		}
		problem(v, "%s", why.msg);
		return 0; /* its trees must not be walked */
	}
	if (check_all(v, store->meta, check_meta, err) < 0 ||
	    check_all(v, store->jobs, check_job, err) < 0 ||
	    check_all(v, store->snapshots, check_snapshot, err) < 0 ||
	    check_all(v, store->sessions, check_session, err) < 0 ||
	    check_all(v, store->dropped, check_dropped, err) < 0 ||
	    check_all(v, store->packs, check_pack, err) < 0 ||
	    (index_is_there(store) && check_all(v, store->index, check_run, err) < 0))
		return -1;
	return verify_jobs(v, err);
}

int store_verify(struct store *store, const char *job, uint64_t seq, verify_report *report, void *ctx,
		 uint64_t *ret_problems, struct err *err)
{
	struct verifier v = {.store = store, .report = report, .ctx = ctx};
	struct snapshot_info info;
	int rc = source_open(&v.source, store, err);

	if (rc == 0 && !job)
		rc = verify_store(&v, err);
	else if (rc == 0 && !seq)
		rc = verify_job(&v, job, err);
	else if (rc == 0 && store_snapshot_load(store, job, seq, &info, NULL, err) < 0 &&
		 err->kind != ERR_CORRUPT)
		rc = -1;
	else if (rc == 0)
		rc = verify_snapshot(&v, job, seq, err);
	source_close(&v.source);
	idset_clear(&v.pages);
	idset_clear(&v.bad_pages);
	idset_clear(&v.nodes);
	idset_clear(&v.bad_nodes);
	if (rc == 0)
		*ret_problems = v.problems;
	return rc;
}
