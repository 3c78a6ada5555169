#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "store/base/cleanup.h"
#include "store/record.h"
#include "store/replica/dir.h"

#define MAGIC_HEAD     MAGIC('R', 'H', 'D', 1)
#define MAGIC_MANIFEST MAGIC('R', 'M', 'F', 1)

/* ---- jobs ---------------------------------------------------------------------------------- */

static void borrow_texts(ProtobufCBinaryData *to, char *const *texts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (ProtobufCBinaryData){strlen(texts[i]), (uint8_t *)texts[i]};
}

void job_to_message(const struct job_info *info, ProtobufCBinaryData *texts, Rep__Job *ret)
{
	*ret = (Rep__Job)REP__JOB__INIT;
	ret->state = (uint32_t)info->state;
	ret->exit_status = info->exit_status;
	ret->created = info->created;
	ret->generation = info->generation;
	ret->first_generation = info->first_generation;
	ret->argv = texts;
	ret->n_argv = info->argc;
	borrow_texts(ret->argv, info->argv, info->argc);
	ret->options = texts + info->argc;
	ret->n_options = info->n_options;
	borrow_texts(ret->options, info->options, info->n_options);
	if (info->cwd)
		ret->cwd = (ProtobufCBinaryData){strlen(info->cwd), (uint8_t *)info->cwd};
}

static char *text_of(const ProtobufCBinaryData *data)
{
	return data->len ? strndup((const char *)data->data, data->len) : strdup("");
}

static bool texts_of(const ProtobufCBinaryData *from, size_t n, char ***ret, size_t *ret_n)
{
	*ret_n = 0;
	*ret = calloc(n + 1, sizeof(char *));
	for (; *ret && *ret_n < n; (*ret_n)++)
		if (!((*ret)[*ret_n] = text_of(&from[*ret_n])))
			return false;
	return *ret;
}

int job_from_message(const Rep__Job *message, const char *name, struct job_info *ret,
		     struct err *err)
{
	struct job_info info = {
		.state = (enum job_state)message->state,
		.exit_status = message->exit_status,
		.created = message->created,
		.generation = message->generation,
		.first_generation = message->first_generation,
		.cwd = text_of(&message->cwd),
	};

	snprintf(info.name, sizeof(info.name), "%s", name);
	if (message->state > JOB_FAILED) {
		job_info_clear(&info);
		return err_set(err, ERR_CORRUPT, "the job's state is %u", message->state);
	}
	if (!info.cwd || !texts_of(message->argv, message->n_argv, &info.argv, &info.argc) ||
	    !texts_of(message->options, message->n_options, &info.options, &info.n_options)) {
		err_sys(err, "job '%s'", name);
		job_info_clear(&info);
		return -1;
	}
	*ret = info;
	return 0;
}

/* ---- heads --------------------------------------------------------------------------------- */

/* What the checksum covers besides: a head found under another job or number is noticed. */
static size_t head_key(const char *job, uint64_t version, char buf[160])
{
	return (size_t)snprintf(buf, 160, "%s %" PRIu64, job, version);
}

int head_pack(const struct dir_replica *r, const char *job, const Rep__Head *head, uint8_t **ret,
	      size_t *ret_len, struct err *err)
{
	size_t len = rep__head__get_packed_size(head), key_len;
	uint8_t *record = malloc(2 * (FRAME_HEADER + len));
	char key[160];

	if (!record)
		return err_sys(err, "the state of job '%s'", job);
	rep__head__pack(head, record + FRAME_HEADER);
	key_len = head_key(job, head->version, key);
	frame_seal_twice(record, len, MAGIC_HEAD, key, key_len, &r->secret);
	*ret = record;
	*ret_len = 2 * (FRAME_HEADER + len);
	return 0;
}

static int check_head(const Rep__Head *head, uint64_t version, struct err *err)
{
	uint64_t last = 0;

	if (head->version != version || head->token.len != REPLICA_TOKEN || !head->job)
		return err_set(err, ERR_CORRUPT, "lacks what a head has");
	for (size_t i = 0; i < head->n_snapshots; i++) {
		const Rep__Entry *e = head->snapshots[i];

		if (e->seq <= last || !manifest_name_is_sound(&e->manifest) || e->origin.len != 16)
			return err_set(err, ERR_CORRUPT, "its list of snapshots is damaged");
		last = e->seq;
	}
	return 0;
}

int head_unpack(const struct dir_replica *r, const char *job, uint64_t version, const void *bytes,
		size_t len, Rep__Head **ret, struct err *err)
{
	struct frame frame;
	char key[160];
	size_t key_len = head_key(job, version, key);
	Rep__Head *head;

	if (frame_open_twice(&frame, bytes, len, MAGIC_HEAD, key, key_len, &r->secret, NULL, err) <
	    0)
		return -1;
	head = rep__head__unpack(NULL, frame.len, frame.payload);
	if (!head)
		return err_set(err, ERR_CORRUPT, "does not decode");
	if (check_head(head, version, err) < 0) {
		rep__head__free_unpacked(head, NULL);
		return -1;
	}
	*ret = head;
	return 0;
}

/* ---- manifests ----------------------------------------------------------------------------- */

bool manifest_name_is_sound(const ProtobufCBinaryData *name)
{
	if (name->len < 1 || name->len > 60)
		return false;
	for (size_t i = 0; i < name->len; i++)
		if (!strchr("0123456789abcdef-", name->data[i]) || !name->data[i])
			return false;
	return true;
}

int manifest_pack(const struct dir_replica *r, const char *job, const Rep__Manifest *manifest,
		  uint8_t **ret, size_t *ret_len, struct err *err)
{
	size_t raw_len = rep__manifest__get_packed_size(manifest), n;
	cleanup_free uint8_t *raw = malloc(raw_len + 1);
	cleanup_free uint8_t *record = malloc(FRAME_HEADER + ZSTD_compressBound(raw_len));

	if (!raw || !record)
		return err_sys(err, "a manifest of %zu bytes", raw_len);
	if (raw_len > MANIFEST_MOST)
		return err_set(err, ERR_UNSUPPORTED, "the snapshot's manifest is too large");
	rep__manifest__pack(manifest, raw);
	n = ZSTD_compress(record + FRAME_HEADER, ZSTD_compressBound(raw_len), raw, raw_len, 3);
	if (ZSTD_isError(n))
		return err_set(err, ERR_SYSTEM, "cannot compress a manifest: %s",
			       ZSTD_getErrorName(n));
	frame_seal(record, n, MAGIC_MANIFEST, job, strlen(job), &r->secret);
	*ret = steal_ptr(&record);
	*ret_len = FRAME_HEADER + n;
	return 0;
}

static int check_manifest(const Rep__Manifest *m, struct err *err)
{
	uint64_t last = 0;

	if (m->origin.len != 16 || m->secret.len != sizeof(struct store_secret) || !m->job ||
	    !m->time)
		return err_set(err, ERR_CORRUPT, "lacks what a manifest has");
	for (size_t i = 0; i < m->n_tables; i++) {
		if (m->tables[i]->root <= last)
			return err_set(err, ERR_CORRUPT, "its tables are out of order");
		last = m->tables[i]->root;
	}
	for (size_t i = 0; i < m->n_packs; i++)
		if (m->packs[i].len < 1 || m->packs[i].len >= PACKFILE_NAME ||
		    memchr(m->packs[i].data, 0, m->packs[i].len))
			return err_set(err, ERR_CORRUPT, "a name in it is damaged");
	if ((m->log && stream_check(m->log, err) < 0) ||
	    (m->input && stream_check(m->input, err) < 0))
		return -1;
	return 0;
}

static int decompress(const struct frame *frame, uint8_t **ret, size_t *ret_len, struct err *err)
{
	unsigned long long len = ZSTD_getFrameContentSize(frame->payload, frame->len);
	cleanup_free uint8_t *raw = NULL;
	size_t n;

	if (len > MANIFEST_MOST)
		return err_set(err, ERR_CORRUPT, "its length is out of bounds");
	raw = malloc(len + 1);
	if (!raw)
		return err_sys(err, "a manifest of %llu bytes", len);
	n = ZSTD_decompress(raw, len, frame->payload, frame->len);
	if (ZSTD_isError(n) || n != len)
		return err_set(err, ERR_CORRUPT, "does not decompress");
	*ret = steal_ptr(&raw);
	*ret_len = n;
	return 0;
}

int manifest_unpack(const struct dir_replica *r, const char *job, const void *bytes, size_t len,
		    Rep__Manifest **ret, struct err *err)
{
	cleanup_free uint8_t *raw = NULL;
	Rep__Manifest *manifest;
	struct frame frame;
	size_t raw_len = 0;

	if (frame_open(&frame, bytes, len, MAGIC_MANIFEST, UINT32_MAX, job, strlen(job), &r->secret,
		       err) < 0 ||
	    decompress(&frame, &raw, &raw_len, err) < 0)
		return -1;
	manifest = rep__manifest__unpack(NULL, raw_len, raw);
	if (!manifest)
		return err_set(err, ERR_CORRUPT, "does not decode");
	if (check_manifest(manifest, err) < 0) {
		rep__manifest__free_unpacked(manifest, NULL);
		return -1;
	}
	*ret = manifest;
	return 0;
}
