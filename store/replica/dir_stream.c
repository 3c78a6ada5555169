#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/bytes.h"
#include "store/replica/dir.h"
#include "store/replica/dirfile.h"

void piece_name(const uint8_t hash[16], char buf[33])
{
	for (int i = 0; i < 16; i++)
		sprintf(buf + 2 * i, "%02x", hash[i]);
}

static void hash_of(const struct dir_replica *r, const void *data, size_t len, uint8_t ret[16])
{
	struct page_hash h = hash_bytes(&r->secret, data, len);

	put_le64(ret, h.lo);
	put_le64(ret + 8, h.hi);
}

void stream_free(Rep__Stream *stream)
{
	if (stream)
		rep__stream__free_unpacked(stream, NULL);
}

int stream_check(const Rep__Stream *stream, struct err *err)
{
	uint64_t end = 0;

	for (size_t i = 0; i < stream->n_pieces; i++) {
		const Rep__Piece *p = stream->pieces[i];

		if (p->offset < end || p->length == 0 || p->length > PIECE_BYTES ||
		    p->hash.len != 16 || __builtin_add_overflow(p->offset, p->length, &end) ||
		    end > stream->length || stream->length > INT64_MAX)
			return err_set(err, ERR_CORRUPT, "the pieces of a file in it are damaged");
	}
	return 0;
}

/* ---- there --------------------------------------------------------------------------------- */

static int put_piece(struct dir_replica *r, const struct dir_job *job, const uint8_t *data,
		     size_t len, const uint8_t hash[16], uint64_t *ret_sent, struct err *err)
{
	struct stat st;
	char name[33];

	piece_name(hash, name);
	if (fstatat(job->pieces, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
	    (size_t)st.st_size == len)
		return 0;
	*ret_sent += len;
	return dirfile_put(job->pieces, name, data, len, err);
}

static int append_piece(Rep__Stream *stream, uint64_t offset, size_t len, const uint8_t hash[16],
			struct err *err)
{
	Rep__Piece **more = reallocarray(stream->pieces, stream->n_pieces + 1, sizeof(*more));
	Rep__Piece *piece;

	if (!more || !(stream->pieces = more, piece = malloc(sizeof(*piece))))
		return err_sys(err, "a log");
	rep__piece__init(piece);
	piece->offset = offset;
	piece->length = (uint32_t)len;
	stream->pieces[stream->n_pieces++] = piece;
	return set_bytes(&piece->hash, hash, 16, err);
}

static bool is_hole(const uint8_t *data, size_t len)
{
	return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

static int push_pieces(struct dir_replica *r, const struct dir_job *job, int fd,
		       Rep__Stream *stream, const struct replica_watch *watch, uint64_t *ret_sent,
		       struct err *err)
{
	cleanup_free uint8_t *data = malloc(PIECE_BYTES);
	uint8_t hash[16];

	if (!data)
		return err_sys(err, "a log");
	for (uint64_t at = 0; at < stream->length; at += PIECE_BYTES) {
		size_t len = stream->length - at < PIECE_BYTES ? (size_t)(stream->length - at)
							       : PIECE_BYTES;
		ssize_t n = pread_upto(fd, data, len, (off_t)at);

		if (replica_cancelled(watch))
			return err_set(err, ERR_GONE, "the transfer was given up");
		if (n < 0 || (size_t)n < len)
			return n < 0 ? err_sys(err, "a log") : err_set(err, ERR_GONE, "the job's "
				"log is shorter than the snapshot says: it was rolled back since");
		if (is_hole(data, len))
			continue;
		hash_of(r, data, len, hash);
		if (put_piece(r, job, data, len, hash, ret_sent, err) < 0 ||
		    append_piece(stream, at, len, hash, err) < 0)
			return -1;
	}
	return 0;
}

int stream_push(struct dir_replica *r, const struct dir_job *job, const char *path,
		uint64_t length, const struct replica_watch *watch, Rep__Stream **ret,
		uint64_t *ret_sent, struct err *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	Rep__Stream *stream = malloc(sizeof(*stream));
	struct stat st;

	if (!stream)
		return err_sys(err, "a log");
	rep__stream__init(stream);
	stream->length = length;
	if (fd < 0)
		stream->length = 0;
	else if (length == UINT64_MAX)
		stream->length = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	if (fd >= 0 && push_pieces(r, job, fd, stream, watch, ret_sent, err) < 0) {
		stream_free(stream);
		return -1;
	}
	*ret = stream;
	return 0;
}

/* ---- and back ------------------------------------------------------------------------------ */

static int fetch_piece(struct dir_replica *r, const struct dir_job *job, const Rep__Piece *piece,
		       uint8_t **ret, struct err *err)
{
	cleanup_free uint8_t *data = NULL;
	uint8_t hash[16];
	char name[33];
	size_t len;

	piece_name(piece->hash.data, name);
	if (dirfile_read(job->pieces, name, PIECE_BYTES, &data, &len, err) < 0)
		return err_wrap(err, "pieces");
	hash_of(r, data, len, hash);
	if (len != piece->length || memcmp(hash, piece->hash.data, 16) != 0)
		return err_set(err, ERR_CORRUPT, "pieces/%s is damaged", name);
	*ret = steal_ptr(&data);
	return 0;
}

/* 1: it was another content, and is this now; 0: it was the same. */
static int lay_piece(int fd, uint64_t at, const uint8_t *data, size_t len, const char *path,
		     struct err *err)
{
	cleanup_free uint8_t *here = malloc(len);
	ssize_t n = here ? pread_upto(fd, here, len, (off_t)at) : -1;

	if (n < 0)
		return err_sys(err, "%s", path);
	if ((size_t)n == len && memcmp(here, data, len) == 0)
		return 0;
	return pwrite_full(fd, data, len, (off_t)at) < 0 ? err_sys(err, "%s", path) : 1;
}

int stream_pull(struct dir_replica *r, const struct dir_job *job, const char *path,
		const Rep__Stream *stream, const struct replica_watch *watch, struct err *err)
{
	cleanup_fd int fd = -1;
	int changed = 0;
	struct stat st;

	if (stream->length == 0)
		return 0;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, "%s", path);
	for (size_t i = 0; i < stream->n_pieces; i++) {
		cleanup_free uint8_t *data = NULL;
		int rc;

		if (replica_cancelled(watch))
			return err_set(err, ERR_GONE, "the transfer was given up");
		if (fetch_piece(r, job, stream->pieces[i], &data, err) < 0)
			return -1;
		rc = lay_piece(fd, stream->pieces[i]->offset, data, stream->pieces[i]->length, path,
			       err);
		if (rc < 0)
			return -1;
		changed |= rc;
	}
	/* Behind it is what another run wrote, unless this is where both begin. */
	if ((changed || (uint64_t)st.st_size < stream->length) &&
	    ftruncate(fd, (off_t)stream->length) < 0)
		return err_sys(err, "%s", path);
	return fsync(fd) < 0 ? err_sys(err, "%s", path) : 0;
}
