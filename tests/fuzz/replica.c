/* What a replica in a directory holds: heads, manifests, runs of pages. */
#include "fuzz.h"

#include <zstd.h>

#include "store/record.h"
#include "store/replica/dir.h"
#include "store/replica/runs.h"

#define MAGIC_HEAD     MAGIC('R', 'H', 'D', 1)
#define MAGIC_MANIFEST MAGIC('R', 'M', 'F', 1)

static const struct dir_replica replica = {.secret = {.bytes = {7, 8, 9}}};

static size_t seed_head(uint8_t *buf)
{
	Rep__Head head = REP__HEAD__INIT;
	Rep__Entry entry = REP__ENTRY__INIT, *entries[] = {&entry};
	Rep__Job job = REP__JOB__INIT;
	uint8_t sixteen[16] = {1};

	head.version = 1;
	head.token = entry.origin = (ProtobufCBinaryData){16, sixteen};
	head.job = &job;
	entry.seq = 3;
	entry.manifest = (ProtobufCBinaryData){4, (uint8_t *)"3-ab"};
	head.snapshots = entries;
	head.n_snapshots = 1;
	return rep__head__pack(&head, buf);
}

static size_t seed_manifest(uint8_t *buf)
{
	static uint8_t secret[sizeof(struct store_secret)];
	Rep__Manifest m = REP__MANIFEST__INIT;
	Rep__Table table = REP__TABLE__INIT, *tables[] = {&table};
	Rep__Piece piece = REP__PIECE__INIT, *pieces[] = {&piece};
	Rep__Stream stream = REP__STREAM__INIT;
	Rep__Job job = REP__JOB__INIT;
	uint8_t sixteen[16] = {1}, runs[] = {5, 6, 3, 9, 0, 7, 1};

	m.origin = piece.hash = (ProtobufCBinaryData){16, sixteen};
	m.secret = (ProtobufCBinaryData){sizeof(secret), secret};
	m.time = 4;
	m.job = &job;
	table.root = 9;
	table.runs = (ProtobufCBinaryData){sizeof(runs), runs};
	m.tables = tables;
	m.n_tables = 1;
	piece.length = stream.length = 10;
	stream.pieces = pieces;
	stream.n_pieces = 1;
	m.log = &stream;
	return rep__manifest__pack(&m, buf);
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	if (room < 4096)
		return 0;
	if (i == 0)
		return seed_head(buf);
	return i == 1 ? seed_manifest(buf) : 0;
}

static void read_runs(const uint8_t *data, size_t size)
{
	uint64_t end = 0;
	struct runs_reader reader;
	struct page_ids run;
	struct err err = {0};
	int rc;

	runs_open(&reader, data, size);
	while ((rc = runs_next(&reader, &run, &err)) == 1) {
		promise(run.n > 0 && run.first >= end && run.first + run.n > run.first);
		promise(run.id != 0);
		end = run.first + run.n;
	}
	promise(rc == 0 || err.kind == ERR_CORRUPT);
}

/* The input as a head, with every checksum right. */
static void read_head(const uint8_t *data, size_t size)
{
	uint8_t *record = malloc(2 * (FRAME_HEADER + size));
	struct job_info job;
	Rep__Head *head;
	struct err err = {0};

	if (!record)
		abort();
	memcpy(record + FRAME_HEADER, data, size);
	frame_seal_twice(record, size, MAGIC_HEAD, "sim 1", 5, &replica.secret);
	if (head_unpack(&replica, "sim", 1, record, 2 * (FRAME_HEADER + size), &head, &err) == 0) {
		for (size_t i = 0; i < head->n_snapshots; i++)
			promise(!memchr(head->snapshots[i]->manifest.data, '/',
					head->snapshots[i]->manifest.len));
		if (job_from_message(head->job, "sim", &job, &err) == 0)
			job_info_clear(&job);
		rep__head__free_unpacked(head, NULL);
	} else {
		promise(err.kind == ERR_CORRUPT);
	}
	free(record);
}

static void read_manifest(const uint8_t *data, size_t size)
{
	size_t room = ZSTD_compressBound(size), n;
	uint8_t *record = malloc(FRAME_HEADER + room);
	Rep__Manifest *m;
	struct err err = {0};

	if (!record)
		abort();
	n = ZSTD_compress(record + FRAME_HEADER, room, data, size, 1);
	frame_seal(record, n, MAGIC_MANIFEST, "sim", 3, &replica.secret);
	if (manifest_unpack(&replica, "sim", record, FRAME_HEADER + n, &m, &err) == 0) {
		for (size_t i = 0; i < m->n_tables; i++)
			read_runs(m->tables[i]->runs.data, m->tables[i]->runs.len);
		rep__manifest__free_unpacked(m, NULL);
	} else {
		promise(err.kind == ERR_CORRUPT);
	}
	/* The input itself where the compressed bytes belong. */
	memcpy(record + FRAME_HEADER, data, size);
	frame_seal(record, size, MAGIC_MANIFEST, "sim", 3, &replica.secret);
	if (ZSTD_getFrameContentSize(data, size) < 1 << 24 &&
	    manifest_unpack(&replica, "sim", record, FRAME_HEADER + size, &m, &err) == 0)
		rep__manifest__free_unpacked(m, NULL);
	free(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	read_runs(data, size);
	read_head(data, size);
	read_manifest(data, size);
	return 0;
}
