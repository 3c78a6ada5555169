#include "store/salvage.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/batch.h"
#include "store/bytes.h"
#include "store/catalogue.h"
#include "store/env.h"
#include "store/record.h"
#include "store/salvagescan.h"

#define NODE_BATCH 4096u /* in one transaction */
#define PACK_BATCH 32u

struct piece {
	uint64_t id, seq; /* page, node; job and number */
	uint64_t at;      /* of its value in the file; pages: of the pack's */
	uint32_t part;    /* length; pages: which entry of the pack */
};

struct pieces {
	struct piece *list;
	size_t n, room;
};

struct found_job {
	char name[128];
	Cat__Job *job;
};

struct salvage {
	const uint8_t *file;
	uint64_t size;
	struct store *store;
	uint8_t record[ENV_STORE_RECORD];
	bool has_record;
	struct next_ids next;
	struct pieces pages, nodes, snapshots;
	struct found_job *jobs;
	size_t n_jobs;
};

/* ---- reading ------------------------------------------------------------------------------- */

static int no_memory(struct err *err)
{
	return err_sys(err, "salvage");
}

static int add_piece(struct pieces *pieces, struct piece piece, struct err *err)
{
	if (pieces->n == pieces->room) {
		size_t room = pieces->room ? pieces->room * 2 : 1024;
		struct piece *more = reallocarray(pieces->list, room, sizeof(*more));

		if (!more)
			return no_memory(err);
		pieces->list = more;
		pieces->room = room;
	}
	pieces->list[pieces->n++] = piece;
	return 0;
}

static bool is_key(const struct found_record *found, const char *key)
{
	return found->key_len == strlen(key) && memcmp(found->key, key, found->key_len) == 0;
}

/* The first pass: the secret. */
static int find_store_record(void *ctx, const struct found_record *found, struct err *err)
{
	struct salvage *s = ctx;
	struct frame frame;
	struct err ignored;

	if (s->has_record || !is_key(found, "store") || found->len != sizeof(s->record) ||
	    frame_open_twice(&frame, found->value, found->len, MAGIC_STORE, found->key, found->key_len,
			     NULL, NULL, &ignored) < 0 ||
	    frame.len != sizeof(s->record) / 2 - FRAME_HEADER)
		return 0;
	/* Either copy may be the good one. */
	memcpy(s->record + FRAME_HEADER, frame.payload, frame.len);
	frame_seal_twice(s->record, frame.len, MAGIC_STORE, found->key, found->key_len, NULL);
	if (env_read_record(s->store, s->record, sizeof(s->record), err) < 0)
		return -1;
	s->has_record = true;
	return 0;
}

static void note_counters(struct salvage *s, const struct found_record *found)
{
	struct frame frame;
	struct err ignored;
	uint64_t *const counters[] = {&s->next.page, &s->next.node, &s->next.session, &s->next.job};

	if (frame_open_twice(&frame, found->value, found->len, MAGIC_NEXT, found->key, found->key_len,
			     &s->store->secret, NULL, &ignored) < 0 ||
	    frame.len < 32)
		return;
	for (unsigned i = 0; i < 4; i++)
		if (*counters[i] < get_le64(frame.payload + 8 * i))
			*counters[i] = get_le64(frame.payload + 8 * i);
}

static int note_pack(struct salvage *s, const struct found_record *found, struct err *err)
{
	struct pack_view view;
	struct err ignored;

	if (pack_open(&view, found->value, found->len, get_le64(found->key), &s->store->secret,
		      &ignored) < 0)
		return 0;
	for (uint32_t i = 0; i < view.count; i++) {
		struct pack_entry e = pack_entry(&view, i);
		struct piece piece = {e.id, 0, (uint64_t)(found->value - s->file), i};

		if (e.offset < PACK_HEADER || e.offset > view.entries ||
		    e.len > view.entries - e.offset || e.len > STORE_PAGE_SIZE)
			continue;
		if (add_piece(&s->pages, piece, err) < 0)
			return -1;
	}
	return 0;
}

static int note_node(struct salvage *s, const struct found_record *found, struct err *err)
{
	struct piece piece = {0, 0, (uint64_t)(found->value - s->file), (uint32_t)found->len};
	uint64_t slots[NODE_SLOTS];
	struct err ignored;
	unsigned level;

	if (found->key_len != 8)
		return 0;
	piece.id = get_le64(found->key);
	if (node_open(found->value, found->len, piece.id, &s->store->secret, &level, slots, &ignored) < 0)
		return 0;
	return add_piece(&s->nodes, piece, err);
}

static int note_snapshot(struct salvage *s, const struct found_record *found, struct err *err)
{
	struct piece piece = {0, 0, (uint64_t)(found->value - s->file), (uint32_t)found->len};
	struct snapshot_head head;
	struct snapshot_key key;
	struct err ignored;

	if (found->key_len != sizeof(key.bytes))
		return 0;
	memcpy(key.bytes, found->key, sizeof(key.bytes));
	if (snapshot_head_open(&head, &key, found->value, found->len, &s->store->secret, &ignored) < 0)
		return 0;
	piece.id = get_be64(key.bytes);
	piece.seq = get_be64(key.bytes + 8);
	return add_piece(&s->snapshots, piece, err);
}

/* Of several records of one job the latest. */
static int note_job(struct salvage *s, const struct found_record *found, struct err *err)
{
	MDB_val key = {found->key_len, (void *)found->key}, value = {found->len, (void *)found->value};
	struct found_job *more, *at = NULL;
	struct err ignored;
	char name[128];
	Cat__Job *job;

	if (found->key_len >= sizeof(name))
		return 0;
	snprintf(name, sizeof(name), "%.*s", (int)found->key_len, (const char *)found->key);
	if (job_name_check(name, &ignored) < 0 ||
	    message_decode(s->store, &key, &value, MAGIC_JOB, &cat__job__descriptor, &job, &ignored) < 0)
		return 0;
	for (size_t i = 0; i < s->n_jobs; i++)
		if (strcmp(s->jobs[i].name, name) == 0)
			at = &s->jobs[i];
	if (at && at->job->version >= job->version) {
		cat__job__free_unpacked(job, NULL);
		return 0;
	}
	if (!at) {
		more = reallocarray(s->jobs, s->n_jobs + 1, sizeof(*more));
		if (!more) {
			cat__job__free_unpacked(job, NULL);
			return no_memory(err);
		}
		s->jobs = more;
		at = &more[s->n_jobs++];
		at->job = NULL;
		memcpy(at->name, name, sizeof(name));
	}
	cat__job__free_unpacked(at->job, NULL);
	at->job = job;
	return 0;
}

/* The second pass. */
static int note_record(void *ctx, const struct found_record *found, struct err *err)
{
	struct salvage *s = ctx;
	uint32_t magic = found->len >= FRAME_HEADER ? get_le32(found->value) : 0;

	if (magic == MAGIC('P', 'A', 'C', 'K'))
		return note_pack(s, found, err);
	if ((magic & 0xffffff) == MAGIC_NODE(0))
		return note_node(s, found, err);
	if (magic == MAGIC_SNAPSHOT)
		return note_snapshot(s, found, err);
	if (magic == MAGIC_NEXT)
		note_counters(s, found);
	/* Of a doubled frame the first magic may be what is damaged. */
	if (magic == MAGIC_JOB ||
	    (found->len >= 2 * FRAME_HEADER && found->len % 2 == 0 &&
	     get_le32(found->value + found->len / 2) == MAGIC_JOB))
		return note_job(s, found, err);
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	if (x->seq != y->seq)
		return x->seq < y->seq ? -1 : 1;
	return (x->at > y->at) - (x->at < y->at);
}

/* Ascending, each once: an id stands for one content for ever, so any copy serves. */
static void settle(struct pieces *pieces)
{
	size_t i, n = 0;

	if (pieces->n > 1)
		qsort(pieces->list, pieces->n, sizeof(*pieces->list), by_id);
	for (i = 0; i < pieces->n; i++)
		if (n == 0 || pieces->list[n - 1].id != pieces->list[i].id ||
		    pieces->list[n - 1].seq != pieces->list[i].seq)
			pieces->list[n++] = pieces->list[i];
	pieces->n = n;
}

/* Above all that was found: the counters' record may be lost, or an old one. */
static void raise_counters(struct salvage *s)
{
	if (s->pages.n && s->next.page <= s->pages.list[s->pages.n - 1].id)
		s->next.page = s->pages.list[s->pages.n - 1].id + 1;
	if (s->nodes.n && s->next.node <= s->nodes.list[s->nodes.n - 1].id)
		s->next.node = s->nodes.list[s->nodes.n - 1].id + 1;
	for (size_t i = 0; i < s->snapshots.n; i++)
		if (s->next.job <= s->snapshots.list[i].id)
			s->next.job = s->snapshots.list[i].id + 1;
	for (size_t i = 0; i < s->n_jobs; i++)
		if (s->next.job <= s->jobs[i].job->id)
			s->next.job = s->jobs[i].job->id + 1;
}

/* ---- writing ------------------------------------------------------------------------------- */

static int put(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, const void *data, size_t len, struct err *err)
{
	MDB_val value = {len, (void *)data};
	int rc = mdb_put(txn, dbi, key, &value, 0);

	return rc ? err_lmdb(err, rc, "cannot write the new store") : 0;
}

static int next_txn(struct store *store, MDB_txn **txn, struct err *err)
{
	MDB_txn *done = *txn;

	*txn = NULL;
	if (txn_commit(store, done, false, err) < 0)
		return -1;
	return txn_write(store, txn, err);
}

static int put_nodes(struct salvage *s, MDB_txn **txn, struct err *err)
{
	for (size_t i = 0; i < s->nodes.n; i++) {
		const struct piece *piece = &s->nodes.list[i];
		struct id_key key = id_key(piece->id);

		if (put(*txn, s->store->nodes, KEY_VAL(key), s->file + piece->at, piece->part, err) < 0)
			return -1;
		if (i % NODE_BATCH == NODE_BATCH - 1 && next_txn(s->store, txn, err) < 0)
			return -1;
	}
	return 0;
}

static int put_pack(struct salvage *s, MDB_txn *txn, struct pack_builder *builder, struct err *err)
{
	size_t len;
	struct id_key key;

	if (builder->count == 0)
		return 0;
	len = pack_seal(builder, &s->store->secret);
	key = id_key(builder->first);
	if (put(txn, s->store->packs, KEY_VAL(key), builder->bytes, len, err) < 0)
		return -1;
	pack_start(builder);
	return 0;
}

static int put_pages(struct salvage *s, MDB_txn **txn, struct err *err)
{
	cleanup_free uint8_t *bytes = malloc(PACK_SIZE);
	cleanup_free uint8_t *table = malloc((size_t)PACK_MAX_PAGES * PACK_ENTRY);
	struct pack_builder builder = {.bytes = bytes, .table = table};
	unsigned packs = 0;

	if (!bytes || !table)
		return no_memory(err);
	pack_start(&builder);
	for (size_t i = 0; i < s->pages.n; i++) {
		const struct piece *piece = &s->pages.list[i];
		const uint8_t *pack = s->file + piece->at;
		struct pack_view view;
		struct pack_entry e;

		if (pack_peek(&view, pack, PACK_SIZE, get_le64(pack + 8), err) < 0)
			return -1;
		e = pack_entry(&view, piece->part);
		if (!pack_has_room(&builder, e.id, e.len)) {
			if (put_pack(s, *txn, &builder, err) < 0 ||
			    (++packs % PACK_BATCH == 0 && next_txn(s->store, txn, err) < 0))
				return -1;
		}
		pack_add(&builder, &e, pack + e.offset);
	}
	return put_pack(s, *txn, &builder, err);
}

static bool has_job(const struct salvage *s, uint64_t id)
{
	for (size_t i = 0; i < s->n_jobs; i++)
		if (s->jobs[i].job->id == id)
			return true;
	return false;
}

/* Snapshots whose job's record is lost get one that leads to them. */
static int put_lost_job(struct salvage *s, MDB_txn *txn, uint64_t id, struct err *err)
{
	Cat__Job job = CAT__JOB__INIT;
	char name[128];

	snprintf(name, sizeof(name), "salvaged-%" PRIu64, id);
	job.id = id;
	job.state = JOB_FAILED;
	for (size_t i = 0; i < s->snapshots.n; i++)
		if (s->snapshots.list[i].id == id && job.last_seq < s->snapshots.list[i].seq)
			job.last_seq = s->snapshots.list[i].seq;
	return job_write(s->store, txn, name, &job, err);
}

static int put_catalogue(struct salvage *s, MDB_txn *txn, struct err *err)
{
	uint64_t lost = 0;

	for (size_t i = 0; i < s->n_jobs; i++)
		if (job_write(s->store, txn, s->jobs[i].name, s->jobs[i].job, err) < 0)
			return -1;
	for (size_t i = 0; i < s->snapshots.n; i++) {
		const struct piece *piece = &s->snapshots.list[i];
		struct snapshot_key key = snapshot_key(piece->id, piece->seq);

		if (put(txn, s->store->snapshots, KEY_VAL(key), s->file + piece->at, piece->part, err) < 0)
			return -1;
		if (piece->id != lost && !has_job(s, piece->id)) {
			lost = piece->id;
			if (put_lost_job(s, txn, lost, err) < 0)
				return -1;
		}
	}
	return next_put(s->store, txn, &s->next, err);
}

static int fill_env(void *ctx, struct err *err)
{
	struct salvage *s = ctx;
	MDB_txn *txn;

	if (txn_write(s->store, &txn, err) < 0)
		return -1;
	if (put_nodes(s, &txn, err) < 0 || put_pages(s, &txn, err) < 0 || put_catalogue(s, txn, err) < 0) {
		txn_end(s->store, txn);
		return -1;
	}
	return txn_commit(s->store, txn, true, err);
}

/* ---- all of it ----------------------------------------------------------------------------- */

static void salvage_clear(struct salvage *s)
{
	if (s->file)
		munmap((void *)s->file, s->size + PACK_SIZE);
	free(s->pages.list);
	free(s->nodes.list);
	free(s->snapshots.list);
	for (size_t i = 0; i < s->n_jobs; i++)
		cat__job__free_unpacked(s->jobs[i].job, NULL);
	free(s->jobs);
}

/* With zeroes behind it, so that what is cut off is damaged, not out of bounds. */
static int map_file(struct salvage *s, struct err *err)
{
	cleanup_fd int fd = openat(s->store->dir_fd, "data.mdb", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	void *map;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%s/data.mdb", s->store->dir);
	map = mmap(NULL, (size_t)st.st_size + PACK_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return no_memory(err);
	s->file = map;
	s->size = (uint64_t)st.st_size;
	if (st.st_size && mmap(map, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
		return err_sys(err, "%s/data.mdb", s->store->dir);
	return 0;
}

/* Under two names until the new file takes the first: there is always one. */
static int keep_damaged(struct store *store, struct err *err)
{
	if (linkat(store->dir_fd, "data.mdb", store->dir_fd, "data.mdb.damaged", 0) == 0)
		return 0;
	if (errno == EEXIST)
		return err_set(err, ERR_INVALID,
			       "%s/data.mdb.damaged is there from an earlier time: move it away first",
			       store->dir);
	return err_sys(err, "%s/data.mdb.damaged", store->dir);
}

int salvage_env(struct store *store, struct err *err)
{
	struct salvage s = {.store = store, .next = {ID_FIRST, ID_FIRST, 1, 1}};
	const struct env_seed seed = {s.record, fill_env, &s};
	int rc = map_file(&s, err);

	if (rc == 0)
		rc = salvage_scan(s.file, s.size, find_store_record, &s, err);
	if (rc == 0 && !s.has_record)
		rc = err_set(err, ERR_CORRUPT,
			     "%s: the store's own record is not in data.mdb: nothing else in it can be checked",
			     store->dir);
	if (rc == 0)
		rc = salvage_scan(s.file, s.size, note_record, &s, err);
	if (rc == 0) {
		settle(&s.pages);
		settle(&s.nodes);
		settle(&s.snapshots);
		raise_counters(&s);
		rc = keep_damaged(store, err);
	}
	if (rc == 0 && (rc = env_make(store, &seed, err)) < 0)
		unlinkat(store->dir_fd, "data.mdb.damaged", 0);
	salvage_clear(&s);
	return rc;
}
