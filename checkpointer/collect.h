/*
 * collect.h: from a frozen tree to the model; everything but page contents.
 *
 * One file a subject (collect_process.c, collect_threads.c, collect_mm.c, collect_files.c). Each adds to
 * the model and refuses by name (ERR_UNSUPPORTED) what it cannot save. Runs while the job stands still,
 * so whatever can wait until it runs again is left to contents.c.
 */
#ifndef PAWL_CHECKPOINTER_COLLECT_H
#define PAWL_CHECKPOINTER_COLLECT_H

#include "checkpointer/approach.h"
#include "checkpointer/checkpointer.h"
#include "checkpointer/freeze.h"
#include "checkpointer/map_notes.h"
#include "checkpointer/numbers.h"
#include "checkpointer/refusals.h"
#include "checkpointer/shared.h"
#include "checkpointer/empty_messages.h"
#include "checkpointer/sleeps.h"
#include "checkpointer/tracee/remote.h"

/* Where the content of a model file can be read while the job is frozen, by file id. */
struct file_source {
	char *path;          /* to open it with, e.g. /proc/PID/fd/3; NULL: only through a mapping */
	bool mapped;         /* a process has it mapped */
	bool beside;         /* its content is kept for machines that lack it, as far as it holds still */
	int leased;          /* 1 + a descriptor of the job's to read it with: opening it would break a lease */
	bool mapped_shared;  /* a process has it mapped shared and writable: its times prove nothing */
	/* Where processes have it mapped (SHARED_MEMORY without descriptor): together all that exists of it
	 * for the job. */
	struct file_piece {
		pid_t pid;
		uint64_t start, offset, len;
	} *pieces;
	size_t n_pieces;
	bool huge;           /* its pages are huge ones */
	uint32_t kernel_dev_major, kernel_dev_minor; /* as /proc/PID/maps shows them */
	/* The job has written it, and now only reads it: its content is read when the job runs again, through
	 * a descriptor (held - 1) that is opened in the pause. */
	bool late;
	int held;
};

struct collected_process {
	struct frozen_process *frozen;
	Snap__Process *model;
	/* Whose it is, if it is shared: the first process that has it; else its own. */
	struct collected_process *memory, *files, *fs, *handlers;
	struct remote remote;
	/* By region: every page is to be read, populated or not (its file is gone). */
	bool *read_all;
};

struct collection {
	const struct checkpoint_config *config;
	struct frozen_tree *tree;
	struct sleeps *sleeps;
	struct map_notes *notes;
	struct empty_messages *empties; /* NULL: the job is only looked at, what datagram sockets hold is left alone */
	struct namespaces namespaces;
	Snap__Snapshot *model;
	struct collected_process *processes; /* as tree->processes */
	size_t n;
	struct refusals refusals;            /* of objects; the rest is described nevertheless */
	struct file_source *sources;         /* as model->files */
	size_t n_sources;
	struct numbers files_by_inode;       /* of model->files */
	struct socket_notes *sockets;        /* sockets.h; NULL before collect_sockets and after its end */
	struct sysv_notes *sysv; /* sysv.h */
	bool passing; /* something was refused that is mostly over in a moment */
	struct shared_list shared;           /* descriptors by their open file descriptions */
	struct numbers pipes;                /* of model->open_files, by their object */
};

/* Collects all. The executors in collection->processes[] stay mapped until collect_end. ERR_UNSUPPORTED:
 * c->refusals has all that was refused, c->model the rest. */
int collect_begin(struct collection *c, const struct checkpoint_config *config,
		  struct frozen_tree *tree, struct sleeps *sleeps, struct map_notes *notes,
		  struct empty_messages *empties, struct err *err);
/* Takes the executors out. The model stays in c->model (steal it). */
int collect_end(struct collection *c, struct err *err);
/* Frees everything but does not touch processes: after collect_end, or when they are gone. */
void collection_clear(struct collection *c);

/* ---- the subjects -------------------------------------------------------------------------- */

int collect_host(struct collection *c, struct err *err);
int collect_limits(struct collected_process *p, struct err *err);
int collect_process(struct collection *c, struct collected_process *p, struct err *err);
int collect_posix_timers(struct collected_process *p, struct err *err);
int take_credentials(Snap__Credentials **ret, const struct proc_status *s, struct err *err);
/* What processes know of each other, once each has been collected: unreported stops, the last pid. */
int collect_relations(struct collection *c, struct err *err);
/* Which processes have memory, descriptors, … in common. Refuses threads that do not share with theirs. */
int collect_sharing(struct collection *c, struct err *err);
static inline bool collected_own_memory(const struct collected_process *p)
{
	return p->memory == p;
}
int collect_zombie(struct collected_process *p, struct err *err);
/* Leads its threads out of restartable sequences: before any call is made in the name of one. */
int collect_leave_rseq(struct collected_process *p, struct err *err);
int collect_threads(struct collection *c, struct collected_process *p, struct err *err);
int collect_mm(struct collection *c, struct collected_process *p, struct err *err);
int collect_fds(struct collection *c, struct collected_process *p, struct err *err);
/* All of the capsule's own SHM_DIR: before the processes, so that they find its files in the table. */
int collect_shm(struct collection *c, struct err *err);
int collect_cgroups(struct collection *c, struct err *err);

#define SHM_DIR "/dev/shm"

/* When the descriptors of all processes are collected. Until collect_sockets_end pawl holds a duplicate of
 * each socket. */
int collect_sockets(struct collection *c, struct err *err);
void collect_sockets_end(struct collection *c);
/* With all processes described: System V IPC and POSIX message queues (sysv.h). Keeps what content is read from
 * until collect_sysv_end. */
int collect_sysv(struct collection *c, struct err *err);
void collect_sysv_end(struct collection *c);
/* Device numbers that stand for those of System V segments in file_source and File: the kernel gives them
 * inode numbers which other shared memory may have too (ipc/shm.c). */
#define SYSV_MAJOR 0xfffffu
/* One attachment of a segment. */
int sysv_map(struct collection *c, const struct collected_process *p, const struct proc_map *map,
	     Snap__Region *r, struct err *err);

/* "process 12 (python3)" for messages. buf of 96. */
const char *process_label(const struct frozen_process *p, char *buf, size_t len);

/* CLOCK_REALTIME when the job began, ns (collect_inputs.c). */
uint64_t collect_job_start(const struct collection *c);

/* ---- the file table (collect_files.c) ------------------------------------------------------ */

/* The id of the file that `path` (for opening and stat) leads to, added if new. name: its path as the job
 * knows it. written: opened for writing or mapped shared and writable: then it belongs to the job. */
int file_table_add(struct collection *c, const char *path, const char *name, bool written,
		   int32_t *ret_id, struct err *err);
/* The file belongs to the job: what --files says of it. */
int file_table_own(struct collection *c, int32_t id, struct err *err);
/* A file without a path of its own (shared anonymous memory). */
int file_table_add_anonymous(struct collection *c, Snap__File__Kind kind, const char *name,
			     uint64_t device, uint64_t inode, uint64_t size, int32_t *ret_id,
			     struct err *err);
/* Remembers one more place where it is mapped. */
int file_source_add_piece(struct file_source *s, const struct file_piece *piece, struct err *err);
/* By what /proc/PID/maps shows; -1: not in the table. */
int32_t file_table_find_mapped(const struct collection *c, const struct proc_map *map);

#endif
