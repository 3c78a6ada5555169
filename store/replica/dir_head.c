#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/replica/dir.h"
#include "store/replica/dirfile.h"

#define HEADS_KEPT  16u /* for whoever reads while others write */
#define READ_ROUNDS 50
#define NAME_DIGITS 16

static void head_name(uint64_t version, char buf[24])
{
	snprintf(buf, 24, "%016" PRIx64, version);
}

struct newest {
	uint64_t version;
	uint64_t below; /* versions up to this one may go */
	int dir_fd;
};

static bool parse_name(const char *name, uint64_t *ret)
{
	if (strlen(name) != NAME_DIGITS || strspn(name, "0123456789abcdef") != NAME_DIGITS)
		return false;
	*ret = strtoull(name, NULL, 16);
	return true;
}

static int note_newest(void *ctx, const char *name, struct err *err)
{
	struct newest *n = ctx;
	uint64_t version;

	if (parse_name(name, &version) && version > n->version)
		n->version = version;
	return 0;
}

/* Lists over a network may be old: what comes after is asked for by name. */
static int find_newest(const struct dir_job *job, uint64_t *ret, struct err *err)
{
	struct newest n = {0};
	char name[24];

	if (dirfile_each(job->heads, note_newest, &n, err) < 0)
		return -1;
	if (n.version)
		for (head_name(n.version + 1, name);
		     faccessat(job->heads, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
		     head_name(n.version + 1, name))
			n.version++;
	*ret = n.version;
	return 0;
}

static int read_version(struct dir_replica *r, const struct dir_job *job, const char *name,
			uint64_t version, Rep__Head **ret, struct err *err)
{
	cleanup_free uint8_t *bytes = NULL;
	char file[24];
	size_t len;

	head_name(version, file);
	if (dirfile_read(job->heads, file, HEAD_MOST, &bytes, &len, err) < 0)
		return -1;
	if (head_unpack(r, name, version, bytes, len, ret, err) < 0)
		return err_wrap(err, "jobs/%s/heads/%s", name, file);
	return 0;
}

int head_read(struct dir_replica *r, const struct dir_job *job, const char *name, Rep__Head **ret,
	      struct err *err)
{
	uint64_t version = 0;

	for (int round = 0; round < READ_ROUNDS; round++) {
		if (find_newest(job, &version, err) < 0)
			return -1;
		if (version == 0)
			return err_set(err, ERR_NOT_FOUND, "there is no job '%s'", name);
		if (read_version(r, job, name, version, ret, err) == 0)
			return 0;
		if (err->kind != ERR_NOT_FOUND) /* else it went while we looked */
			return -1;
	}
	return err_set(err, ERR_BUSY, "the state of job '%s' changes all the time", name);
}

/* ---- replacing ----------------------------------------------------------------------------- */

static int remove_old(void *ctx, const char *name, struct err *err)
{
	struct newest *n = ctx;
	uint64_t version;

	if (parse_name(name, &version) && version <= n->below)
		unlinkat(n->dir_fd, name, 0);
	return 0;
}

/* Best effort; from time to time is enough. */
static void prune(const struct dir_job *job, uint64_t version)
{
	struct newest n = {.below = version - HEADS_KEPT, .dir_fd = job->heads};
	struct err ignored;

	if (version > HEADS_KEPT && version % 8 == 0)
		dirfile_each(job->heads, remove_old, &n, &ignored);
}

/* A number that was free because it is long gone is not the next one. */
static int is_newest(const struct dir_job *job, uint64_t version, const char *file, struct err *err)
{
	uint64_t newest;

	if (find_newest(job, &newest, err) < 0)
		return -1;
	if (newest == version)
		return 1;
	/* The one after ours may be built on it; then it is the newest that counts, and ours did. */
	if (newest - version < HEADS_KEPT / 2)
		return 1;
	unlinkat(job->heads, file, 0);
	return 0;
}

int head_replace(struct dir_replica *r, const struct dir_job *job, const char *name,
		 Rep__Head *head, struct err *err)
{
	cleanup_free uint8_t *bytes = NULL;
	uint8_t nonce[16];
	char file[24];
	size_t len;
	int rc;

	if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce))
		return err_sys(err, "random number");
	if (set_bytes(&head->nonce, nonce, sizeof(nonce), err) < 0)
		return -1;
	head->version++;
	head_name(head->version, file);
	if (head_pack(r, name, head, &bytes, &len, err) < 0)
		return -1;
	rc = dirfile_claim(job->heads, file, bytes, len, err);
	if (rc == 1)
		rc = is_newest(job, head->version, file, err);
	if (rc == 1)
		prune(job, head->version);
	return rc;
}

int set_bytes(ProtobufCBinaryData *field, const void *data, size_t len, struct err *err)
{
	uint8_t *copy = malloc(len + 1);

	if (!copy)
		return err_sys(err, "a record");
	memcpy(copy, data, len);
	free(field->data);
	*field = (ProtobufCBinaryData){len, copy};
	return 0;
}

int head_check_hold(const Rep__Head *head, const struct replica_hold *hold, struct err *err)
{
	if (memcmp(head->token.data, hold->token, REPLICA_TOKEN) == 0)
		return 0;
	return err_set(err, ERR_FENCED, "job '%s' was resumed by %.*s since", hold->job,
		       (int)head->holder.len, (const char *)head->holder.data);
}

int head_update(struct dir_replica *r, const struct dir_job *job, const struct replica_hold *hold,
		head_change *change, void *ctx, struct err *err)
{
	for (int round = 0; round < READ_ROUNDS; round++) {
		cleanup_head Rep__Head *head = NULL;
		int rc;

		if (head_read(r, job, hold->job, &head, err) < 0 ||
		    head_check_hold(head, hold, err) < 0)
			return -1;
		rc = change(ctx, head, err);
		if (rc <= 0)
			return rc;
		rc = head_replace(r, job, hold->job, head, err);
		if (rc != 0)
			return rc < 0 ? -1 : 0;
	}
	return err_set(err, ERR_BUSY, "the state of job '%s' changes all the time", hold->job);
}

const Rep__Entry *head_find(const Rep__Head *head, uint64_t seq)
{
	if (seq == 0)
		return head->n_snapshots ? head->snapshots[head->n_snapshots - 1] : NULL;
	for (size_t i = 0; i < head->n_snapshots; i++)
		if (head->snapshots[i]->seq == seq)
			return head->snapshots[i];
	return NULL;
}

int manifest_read(struct dir_replica *r, const struct dir_job *job, const char *name,
		  const Rep__Entry *entry, Rep__Manifest **ret, struct err *err)
{
	cleanup_free uint8_t *bytes = NULL;
	char file[64];
	size_t len;

	snprintf(file, sizeof(file), "%.*s", (int)entry->manifest.len,
		 (const char *)entry->manifest.data);
	if (dirfile_read(job->snapshots, file, MANIFEST_MOST, &bytes, &len, err) < 0 ||
	    manifest_unpack(r, name, bytes, len, ret, err) < 0)
		return err_wrap(err, "snapshot %s@%" PRIu64, name, entry->seq);
	if ((*ret)->time == entry->time && (*ret)->generation == entry->generation &&
	    (*ret)->seq == entry->seq)
		return 0;
	rep__manifest__free_unpacked(*ret, NULL);
	*ret = NULL;
	return err_set(err, ERR_CORRUPT, "snapshot %s@%" PRIu64 ": its manifest is another's", name,
		       entry->seq);
}
