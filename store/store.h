/*
 * store.h: the page store and the catalogue of jobs and snapshots.
 *
 * One store is one directory with one LMDB environment, a log file a job, and lock files. Several
 * processes may use it at once. Every byte is specified in FORMAT.md. The store knows nothing of
 * processes: it keeps pages (4096 bytes), page tables (sparse arrays of pages, indexed by uint64_t),
 * and snapshot models that refer to page tables by root.
 *
 * Threads: a struct store may be used by several threads; a session and what hangs on it by one at
 * a time. Open a store once in a process, and never use any of it after fork (LMDB's rules). A child
 * that lives on without exec must close every descriptor it inherited: the locks of jobs and sessions
 * are the open files', and would outlive their owner in it.
 *
 * Errors: ERR_CORRUPT wherever stored bytes fail a checksum (the message names job, snapshot, what
 * and where), ERR_FULL when the disk, a quota or the map is full (the store stays good), ERR_VERSION
 * for a store of a newer format or a foreign file, ERR_DENIED for a store that others may write.
 */
#ifndef PAWL_STORE_STORE_H
#define PAWL_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/snapshot.h"

#define STORE_PAGE_SIZE 4096u

struct store;
struct store_session;
struct page_table;
struct page_reader;

struct page_hash { /* XXH3-128 with the store's secret */
	uint64_t lo, hi;
};

/* ---- opening ------------------------------------------------------------------------------- */

enum store_flags {
	STORE_READ = 0,        /* must exist; nothing is written but LMDB's reader table */
	STORE_WRITE = 1 << 0,  /* must exist */
	STORE_CREATE = 1 << 1, /* made (0700) where missing; implies STORE_WRITE */
	STORE_ANY_FS = 1 << 2, /* also on a network file system (LMDB's locks may not hold there) */
};

/* Checks owner and mode, file system, format version; reclaims what dead writers left (STORE_WRITE). */
int store_open(struct store **ret, const char *dir, int flags, struct err *err);
void store_close(struct store *store);
const char *store_dir(const struct store *store);
/* Whether what is stored from now on stays in the page cache: it is about to be read. */
void store_stay_in_page_cache(struct store *store, bool stay);

/* ---- jobs ---------------------------------------------------------------------------------- */

enum job_state {
	JOB_NEW,      /* registered, no process yet */
	JOB_RUNNING,  /* a watchdog says it runs; true only while it holds the job's lock */
	JOB_STOPPED,  /* snapshotted and ended on request: resumable */
	JOB_FINISHED, /* ended by itself; exit_status is the job's */
	JOB_FAILED,   /* pawl gave it up; resumable where it has snapshots */
};

/* Room for a destination as text: as long as ssh://HOST:PORT/STORE can be (store/replica/ssh_connect.h). */
#define JOB_DESTINATION 1600u

struct job_info {
	char name[128];      /* 1..100 bytes of [A-Za-z0-9._+-], not starting with '-' or '.' */
	uint64_t id;         /* unique in this store, never reused */
	enum job_state state;
	int exit_status;     /* exit code as `pawl run` reports it; of JOB_FINISHED */
	uint64_t created;    /* CLOCK_REALTIME, ns */
	uint64_t generation; /* +1 every time the job is launched or recovered */
	uint64_t first_generation; /* of the latest start from the beginning: snapshots of earlier
				    * generations belong to earlier runs, never resumed unasked */
	uint64_t last_seq;   /* highest snapshot number ever given out */
	int watchdog_pid;    /* host pid while JOB_RUNNING */
	int leader_pid;      /* host pid of the job's leader while JOB_RUNNING */
	bool attached;       /* the leader was not started by pawl, and may outlive its watchdog */
	uint64_t leader_start; /* attached: when the leader started, clock ticks after boot */
	int init_pid;          /* host pid of the last capsule's init, 0: none; it may have ended */
	uint64_t init_start;   /* when it started, as leader_start */
	char **argv;         /* NULL-terminated, owned by the struct */
	size_t argc;
	char *cwd;           /* owned by the struct */
	char **options;      /* how to watch it, as launched: "--interval=5m" …; NULL-terminated, owned */
	size_t n_options;
	char moved_to[JOB_DESTINATION]; /* it goes on at that destination, not here; empty: it does not */
	bool moving;         /* … or it does not: the handing over has begun, only the destination knows */
};

void job_info_clear(struct job_info *info); /* frees what the struct owns */
int job_name_check(const char *name, struct err *err); /* ERR_INVALID with the rule */

/* Takes the job's lock (released by job_unlock or by the holder's death) and makes the job where it
 * is missing. ERR_BUSY names the watchdog's pid where another process holds it. *ret_lock is an fd. */
int store_job_lock(struct store *store, const char *name, int *ret_lock, struct err *err);
void store_job_unlock(int lock);
bool store_job_is_locked(struct store *store, const struct job_info *info);

int store_job_get(struct store *store, const char *name, struct job_info *ret, struct err *err);
int store_job_put(struct store *store, const struct job_info *info, struct err *err);
/* *ret: malloc'ed array; clear each, then free. */
int store_job_list(struct store *store, struct job_info **ret, size_t *ret_n, struct err *err);

/* The record of a job from another store: made here where the job is missing; where it is there and of a
 * lower generation, what is said of the job (state, command, options, generations) is taken over. The caller
 * holds the job's lock where it is there. */
int store_job_import(struct store *store, const struct job_info *from, struct err *err);

/* Path of the job's log / pumped standard input / control socket; buf of PATH_MAX. */
void store_job_log_path(const struct store *store, const struct job_info *job, char *buf, size_t len);
void store_job_stdin_path(const struct store *store, const struct job_info *job, char *buf,
			  size_t len);
void store_job_socket_path(const struct store *store, const struct job_info *job, char *buf,
			   size_t len);

/* ---- snapshots ----------------------------------------------------------------------------- */

struct snapshot_info {
	char job[128];
	uint64_t seq;              /* from 1 */
	uint64_t parent;           /* seq it was taken against, 0: none */
	uint64_t time;             /* CLOCK_REALTIME at the freeze, ns */
	uint64_t generation;
	uint64_t pause_us;         /* the job stood still */
	uint64_t wall_us;          /* from request to durable */
	uint64_t pages_resident;   /* populated pages of the job at the freeze */
	uint64_t pages_candidate;  /* pages read and hashed */
	uint64_t pages_changed;    /* pages whose content was stored or newly referenced */
	uint64_t bytes_raw;        /* pages_changed in bytes, zero pages and duplicates excluded */
	uint64_t bytes_stored;     /* bytes this snapshot added to the store */
	char tracker[16];          /* "pagemap", "soft-dirty", "none" */
	bool final;                /* taken by stop: nothing ran after it */
	uint32_t processes, threads;
};

/* Ascending. *ret malloc'ed. A record that fails its checksum is listed with `time` 0. */
int store_snapshot_list(struct store *store, const char *job, struct snapshot_info **ret,
			size_t *ret_n, struct err *err);
/* A snapshot is the same wherever it was copied to where time and generation are the same. 1 and its number
 * here, 0: it is not here, -1. */
int store_snapshot_same(struct store *store, const char *job, uint64_t time, uint64_t generation,
			uint64_t *ret_seq, struct err *err);
/* seq 0: the newest. Either ret may be NULL. Model freed by snap__snapshot__free_unpacked. */
int store_snapshot_load(struct store *store, const char *job, uint64_t seq,
			struct snapshot_info *ret_info, Snap__Snapshot **ret_model, struct err *err);

/* Out of the catalogue at once; its space comes back with store_gc. */
int store_snapshot_drop(struct store *store, const char *job, uint64_t seq, struct err *err);
/* The job with all its snapshots and its log. ERR_BUSY while it is locked. */
int store_job_drop(struct store *store, const char *name, struct err *err);

struct gc_stats {
	uint64_t packs_freed, packs_compacted, nodes_freed, snapshots_freed;
	uint64_t bytes_freed;    /* reusable inside the store */
	uint64_t bytes_returned; /* given back to the file system (compact) */
};
enum store_gc_flags {
	STORE_GC_THOROUGH = 1, /* packs of which a half is dead are merged, not only those of which most is */
	/* Also copies the environment to give space back. Needs to be the only user: ERR_BUSY; no other thread may use
	 * the store meanwhile. */
	STORE_GC_COMPACT = 2,
};
/* Frees what no snapshot refers to; packs mostly dead are merged. Transactions are short. flags: enum store_gc_flags.
 * ERR_CORRUPT where a snapshot's record is damaged: nothing is freed until that snapshot is dropped. ERR_BUSY too when
 * another collection goes on for more than ten seconds. */
int store_gc(struct store *store, int flags, struct gc_stats *ret, struct err *err);

struct salvage_stats {
	uint64_t jobs, snapshots; /* saved */
	uint64_t lost;            /* snapshots of which something is missing: dropped */
};
/* A store whose data.mdb is damaged so that it cannot be opened, made anew with every snapshot of which all can still
 * be read and checked; the damaged file stays beside it as data.mdb.damaged. Snapshots that were dropped lately may be
 * back, and a job whose record is lost is called salvaged-ID. flags: STORE_ANY_FS. ERR_BUSY: somebody has it open. */
int store_salvage(const char *dir, int flags, struct salvage_stats *ret, struct err *err);

/* Bytes of live data, reusable inside, file size, and snapshots, for `list` and tests. */
struct store_usage {
	uint64_t file_bytes, free_bytes, pack_bytes, packs, nodes, jobs, snapshots;
};
int store_usage(struct store *store, struct store_usage *ret, struct err *err);

/* Checks every record, node and page of one snapshot (seq 0: all of the job; job NULL: all jobs), and
 * the packs' own checksums. report is called with one line for each problem. Returns 0 even with
 * problems; *ret_problems counts them. */
typedef void verify_report(void *ctx, const char *job, uint64_t seq, const char *line);
int store_verify(struct store *store, const char *job, uint64_t seq, verify_report *report, void *ctx,
		 uint64_t *ret_problems, struct err *err);

/* ---- writing a snapshot -------------------------------------------------------------------- */

enum store_codec { CODEC_NONE, CODEC_LZ4, CODEC_ZSTD };

/* A page table may start from a root of the parent snapshot or of this session, not from others: those
 * may be freed meanwhile. A parent whose page table nodes are damaged gives ERR_CORRUPT in
 * page_table_edit and page_table_put: take that snapshot without parent. A parent's damaged page is
 * just stored anew when it is put.
 *
 * A writer of one snapshot. Nothing it writes is visible before session_publish, everything is
 * reclaimed if it is aborted or its process dies. While it lives, its parent snapshot's pages stay. Of its memory
 * most is packs: those that gather and those on their way into the store, SESSION_PACKS_BYTES at most, and LMDB's copy
 * of those that are being written, SESSION_BATCH_BYTES. */
#define SESSION_PACKS_BYTES (64ull << 20)
#define SESSION_BATCH_BYTES (8ull << 20)
int session_begin(struct store_session **ret, struct store *store, const char *job,
		  uint64_t parent /* seq, 0: none */, enum store_codec codec, struct err *err);
void session_abort(struct store_session *session); /* takes NULL; also frees */
/* The snapshot has so many pages, of which many may be put: their hashes are then kept in memory (source.h). */
void session_expect(struct store_session *session, uint64_t pages);

struct session_counts {
	uint64_t pages_in;      /* given to page_table_put */
	uint64_t pages_changed; /* differed from what the table held */
	uint64_t pages_zero, pages_duplicate;
	uint64_t pages_stored;  /* new content */
	uint64_t bytes_raw;     /* pages_stored * page size */
	uint64_t bytes_stored;  /* packs, nodes and record as stored */
};
void session_counts(const struct store_session *session, struct session_counts *ret);

/* Hash of any bytes with the store's secret: to tell whether they are the same later in this session. May be
 * called by several threads at once. */
struct page_hash session_digest(const struct store_session *session, const void *data, size_t len);

/* Writes the model and info as the next snapshot of the job, syncs, frees the session in any case.
 * info's job, seq, parent, generation and bytes_stored are filled in. */
int session_publish(struct store_session *session, const Snap__Snapshot *model,
		    struct snapshot_info *info, struct err *err);

/* As session_publish, for a snapshot that was made in another store: info's time, generation, parent and
 * cost stay as they are, and so does its number where the job has no snapshot of that number (else it
 * becomes the next one; info->seq says which). The job's generation is raised to it where it is lower. */
int session_publish_import(struct store_session *session, const Snap__Snapshot *model,
			   struct snapshot_info *info, struct err *err);

/* A page table under construction: starts as the table at root (0: empty), in this session. */
int page_table_edit(struct page_table **ret, struct store_session *session, uint64_t root,
		    struct err *err);
void page_table_free(struct page_table *table); /* takes NULL; without finish: discarded */

/* Gives the content of pages first … first+n-1 (n * 4096 bytes). Each is hashed; one that equals what
 * the table holds costs nothing; an all-zero one becomes ZERO; a known content is referenced; else it
 * is stored. ret_changed (may be NULL) counts those that differed. */
int page_table_put(struct page_table *table, uint64_t first, const void *pages, size_t n,
		   uint64_t *ret_changed, struct err *err);
/* Pages first … first+n-1 become unpopulated. */
int page_table_clear(struct page_table *table, uint64_t first, uint64_t n, struct err *err);
/* Whether the page is populated (0/1), -1 on error. */
int page_table_has(struct page_table *table, uint64_t index, struct err *err);
/* Next populated run at or after `from`, below `limit`: 1 found, 0 none, -1 error. */
int page_table_next(struct page_table *table, uint64_t from, uint64_t limit, uint64_t *ret_first,
		    uint64_t *ret_n, struct err *err);
/* Writes changed nodes; *ret_root is the new root (0: empty). Unchanged table: the same root. Frees. */
int page_table_finish(struct page_table *table, uint64_t *ret_root, struct err *err);

/* ---- reading pages ------------------------------------------------------------------------- */

enum page_kind { PAGE_ABSENT, PAGE_ZERO, PAGE_DATA };

struct page_run {
	uint64_t first, n; /* pages */
	enum page_kind kind; /* PAGE_ZERO or PAGE_DATA */
};

int page_reader_open(struct page_reader **ret, struct store *store, uint64_t root, struct err *err);
void page_reader_close(struct page_reader *reader);
/* Next populated run at or after `from`: 1 found, 0 none, -1 error. */
int page_reader_next(struct page_reader *reader, uint64_t from, struct page_run *ret, struct err *err);
/* Where two tables differ. Pages are compared by what they refer to, so equal ones that were stored twice
 * count as different; chunks that are the same in both cost nothing. */
struct page_difference {
	uint64_t first, n; /* pages */
	enum page_kind a, b; /* each the same in the whole run */
};
/* The first run at or after `from` and below `limit` in which every page of a differs from b's, clipped to
 * limit: 1 found, 0 none, -1 error. Readers of one store. */
int page_readers_compare(struct page_reader *a, struct page_reader *b, uint64_t from, uint64_t limit,
			 struct page_difference *ret, struct err *err);
/* Content of n pages from first into buf (n * 4096 bytes), absent and zero ones as zeroes; every
 * page's hash is checked. Readers on different threads may work at once, one reader is one thread's. */
int page_reader_read(struct page_reader *reader, uint64_t first, size_t n, void *buf,
		     struct err *err);

#endif
