/*
 * dir.h: a replica in a directory (FORMAT.md, "A replica in a directory"). For its own files:
 *
 *   dir.c        the directory itself, and the operations
 *   dir_head.c   the state of a job: read, and replaced in one step
 *   dir_records.c  heads and manifests as bytes (pure)
 *   dir_known.c  which pages of a store are there already
 *   dir_push.c   a snapshot goes there
 *   dir_stream.c logs and kept input, in pieces
 *   dir_pull.c   a snapshot comes from there
 *   dir_sweep.c  files that no manifest needs go
 */
#ifndef PAWL_STORE_REPLICA_DIR_H
#define PAWL_STORE_REPLICA_DIR_H

#include "replica.pb-c.h"
#include "store/hash.h"
#include "store/replica/destination.h"
#include "store/replica/packfile.h"

#define HEAD_MOST     (16u << 20)
#define MANIFEST_MOST (1u << 31)
#define PIECE_BYTES   (4u << 20)

struct dir_known;

struct dir_replica {
	char *path;
	bool met; /* uuid and secret are known: from then on it must be this one */
	uint8_t uuid[16];
	struct store_secret secret;
	struct dir_known *known; /* of the job that was pushed last; NULL: nothing */
};

struct dir_job { /* the folders of one job; all -1 at first */
	int job, heads, snapshots, packs, pieces;
};

/* Opens the replica's directory: its descriptor, or -1. make: it may be made where it is missing and was never
 * seen. ERR_UNREACHABLE: it is not there, or another one is. */
int dir_enter(struct dir_replica *r, bool make, struct err *err);
/* ERR_NOT_FOUND where there is no such job and make is false. */
int dir_job_open(struct dir_replica *r, const char *job, bool make, struct dir_job *ret,
		 struct err *err);
void dir_job_close(struct dir_job *job);

static inline void dir_cleanup_job(struct dir_job *job)
{
	dir_job_close(job);
}
#define cleanup_dir_job __attribute__((cleanup(dir_cleanup_job)))
#define DIR_JOB_NONE                                      \
	{                                                 \
		-1, -1, -1, -1, -1                        \
	}

/* ---- records: bytes and back, everything checked ------------------------------------------- */

/* *ret malloc'ed. */
int head_pack(const struct dir_replica *r, const char *job, const Rep__Head *head, uint8_t **ret,
	      size_t *ret_len, struct err *err);
/* *ret: rep__head__free_unpacked. */
int head_unpack(const struct dir_replica *r, const char *job, uint64_t version, const void *bytes,
		size_t len, Rep__Head **ret, struct err *err);
int manifest_pack(const struct dir_replica *r, const char *job, const Rep__Manifest *manifest,
		  uint8_t **ret, size_t *ret_len, struct err *err);
int manifest_unpack(const struct dir_replica *r, const char *job, const void *bytes, size_t len,
		    Rep__Manifest **ret, struct err *err);
bool manifest_name_is_sound(const ProtobufCBinaryData *name);

/* The record of a job; the message borrows from info, texts has room for argv and options. */
void job_to_message(const struct job_info *info, ProtobufCBinaryData *texts, Rep__Job *ret);
int job_from_message(const Rep__Job *message, const char *name, struct job_info *ret,
		     struct err *err);

static inline void cleanup_head_p(Rep__Head **head)
{
	rep__head__free_unpacked(*head, NULL);
}
static inline void cleanup_manifest_p(Rep__Manifest **manifest)
{
	rep__manifest__free_unpacked(*manifest, NULL);
}
#define cleanup_head	 __attribute__((cleanup(cleanup_head_p)))
#define cleanup_manifest __attribute__((cleanup(cleanup_manifest_p)))

/* ---- heads --------------------------------------------------------------------------------- */

/* The head of the highest version. ERR_NOT_FOUND: there is none. */
int head_read(struct dir_replica *r, const struct dir_job *job, const char *name, Rep__Head **ret,
	      struct err *err);
/* Puts *head as the one after head->version; raises head->version. 1: done, 0: somebody else was quicker. */
int head_replace(struct dir_replica *r, const struct dir_job *job, const char *name,
		 Rep__Head *head, struct err *err);
/* Reads the head, checks that the hold holds, lets change alter it, replaces it; again where somebody was
 * quicker. change: 1 altered, 0 leave it at that, -1. */
typedef int head_change(void *ctx, Rep__Head *head, struct err *err);
int head_update(struct dir_replica *r, const struct dir_job *job, const struct replica_hold *hold,
		head_change *change, void *ctx, struct err *err);
int head_check_hold(const Rep__Head *head, const struct replica_hold *hold, struct err *err);
const Rep__Entry *head_find(const Rep__Head *head, uint64_t seq); /* seq 0: the newest; or NULL */
/* Sets a bytes field to a malloc'ed copy. */
int set_bytes(ProtobufCBinaryData *field, const void *data, size_t len, struct err *err);

int manifest_read(struct dir_replica *r, const struct dir_job *job, const char *name,
		  const Rep__Entry *entry, Rep__Manifest **ret, struct err *err);

/* ---- what is there already ----------------------------------------------------------------- */

struct known_file {
	char name[PACKFILE_NAME];
	uint64_t count, live; /* pages; of these, needed by the snapshot at hand */
	bool gone;
};
struct known_range {
	uint64_t first, end;
	uint32_t file;
};
struct dir_known { /* of one job and one origin */
	char job[128];
	uint8_t origin[16];
	struct known_file *files;
	size_t n_files;
	struct known_range *ranges; /* ascending, without overlap */
	size_t n_ranges;
};

/* Makes r->known hold for this job and store: read anew where it was another's, else looked over. */
int known_refresh(struct dir_replica *r, const struct dir_job *job, const char *name,
		  const Rep__Head *head, struct store *store, struct err *err);
/* Takes in a file that has just been written: its ids as ranges. */
int known_add(struct dir_known *known, const struct packfile *file, struct err *err);
/* The range that id is in, or the first one above it: an index, n_ranges where there is none. */
size_t known_seek(const struct dir_known *known, uint64_t id);
void known_free(struct dir_known *known); /* takes NULL */

/* ---- streams ------------------------------------------------------------------------------- */

/* Sends the first `length` bytes of the file at path (UINT64_MAX: all there is); a file that is not there is an
 * empty one. *ret's arrays are malloc'ed; stream_free. */
int stream_push(struct dir_replica *r, const struct dir_job *job, const char *path,
		uint64_t length, const struct replica_watch *watch, Rep__Stream **ret,
		uint64_t *ret_sent, struct err *err);
void stream_free(Rep__Stream *stream); /* takes NULL */
/* Makes the file begin with the stream: what is equal stays, and so does what is behind it where all of it was. */
int stream_pull(struct dir_replica *r, const struct dir_job *job, const char *path,
		const Rep__Stream *stream, const struct replica_watch *watch, struct err *err);
int stream_check(const Rep__Stream *stream, struct err *err);
void piece_name(const uint8_t hash[16], char buf[33]);

/* ---- the operations ------------------------------------------------------------------------ */

int dir_push(void *self, const struct replica_hold *hold, struct store *store, uint64_t seq,
	     const struct replica_watch *watch, struct replica_stats *ret, struct err *err);
int dir_pull(void *self, const char *job, uint64_t seq, struct store *store,
	     const struct replica_watch *watch, struct replica_stats *ret, struct err *err);
int dir_drop(void *self, const struct replica_hold *hold, const uint64_t *seqs, size_t n,
	     struct err *err);
/* Removes what nothing in the head needs. Only for the holder. */
int dir_sweep(struct dir_replica *r, const struct dir_job *job, const char *name,
	      const Rep__Head *head, struct err *err);

#endif
