/*
 * plan.h: what a recovery will do, decided before anything is created.
 *
 * Pure: a snapshot model in, checked; ordered steps out, printable. recovery.c carries the steps
 * out in exactly this order. A model that passes plan_make has all its indices in range, its
 * regions ascending and page-aligned, its byte fields of the sizes that the kernel takes, and only
 * objects that this version can rebuild; the steps need not check any of that again.
 *
 * The order has a reason: everything that reads stored content comes before the first step that
 * touches a file of the user's, so that a damaged snapshot is noticed while an earlier one can
 * still be taken with nothing changed.
 */
#ifndef PAWL_RECOVERY_PLAN_H
#define PAWL_RECOVERY_PLAN_H

#include <stdbool.h>
#include <stdio.h>

#include "recovery/inherit.h"
#include "recovery/lineage.h"
#include "store/base/err.h"
#include "store/snapshot.h"

enum plan_kind {
	PLAN_VERIFY_TREE,  /* compare a saved directory with the disk, read all content it will need */
	PLAN_RESTORE_TREE, /* the directory becomes what it was */
	PLAN_VERIFY_FILE,   /* read all stored content of a file, find the pages that differ on disk
			     */
	PLAN_IDENTIFY_FILE, /* the file must be there, or its stored content takes its place */
	PLAN_TEMPORARY_FILE, /* memfd or unlinked file, filled from stored content */
	PLAN_IPC_LIMIT,	     /* a limit of the capsule's IPC namespace */
	PLAN_SEGMENT,	     /* System V shared memory with its content */
	PLAN_SEMAPHORES,     /* a System V semaphore set */
	PLAN_QUEUE,	     /* a System V message queue with its messages */
	PLAN_POSIX_QUEUE,    /* a POSIX message queue with its messages */
	PLAN_SPAWN,	     /* an empty process under its old pid, or a helper (lineage.h) */
	PLAN_SESSION,	     /* it founds its session */
	PLAN_FOUND,	     /* it founds a process group under its pid */
	PLAN_GROUP,	     /* it joins its process group */
	PLAN_END,	     /* a helper ends, a zombie gets its exit status */
	PLAN_CLEAR,	     /* nothing left in its address space but the vdso, at its old place, and
			      * what it has inherited */
	PLAN_MAP,	     /* regions without a file of the job's behind them, and their pages: what
			      * it has not inherited. Before those are created that inherit it */
	PLAN_SHED,	     /* regions that were there only to be inherited */
	PLAN_VERIFY_PAGES,   /* pages of the other regions are read, and thrown away */
	PLAN_PRIVATE,	     /* a directory, link, … of the capsule's own /dev/shm */
	PLAN_RESTORE_FILE,   /* the file becomes what it was */
	PLAN_TRUNCATE_FILE,
	PLAN_FINISH_PRIVATE, /* further names, modes and times there */
	PLAN_MAP_FILES,	  /* the other regions, and their pages */
	PLAN_ATTACH,	  /* System V segments into an address space */
	PLAN_FINISH_SEGMENT, /* removed, if it was */
	PLAN_UNDO,	  /* what SEM_UNDO is to give back when a process ends */
	PLAN_TOUCH,	  /* semaphores that it was the last to change */
	PLAN_PROTECT,	  /* final protection, advice, brk, argv, auxv, /proc/PID/exe */
	PLAN_COMPARE,	  /* of a trial: is the memory as stored? */
	PLAN_TERMINAL,	  /* a pseudo-terminal of the job's own */
	PLAN_FINISH_TERMINAL, /* controlling terminal of its session */
	PLAN_OPEN,	  /* an open file description */
	PLAN_SOCKETS,	  /* a socket; the first makes all: they belong together, and hold others in messages */
	PLAN_DESCRIPTORS, /* descriptors of a process under their numbers */
	PLAN_FINISH_FILE, /* mode, times and seals of a temporary file */
	PLAN_FINISH_POSIX_QUEUE, /* its owner and mode */
	PLAN_WATCH,	  /* what an inotify instance watches: after the last touch of the job's files */
	PLAN_ATTRIBUTES,  /* cwd, umask, handlers, … of a process */
	PLAN_THREADS,	  /* threads under their old tids, with what belongs to each */
	PLAN_LAST_PID,	  /* pids are given on from where they were */
	PLAN_CREDENTIALS, /* of every thread, and its filters */
	PLAN_FORGET,	  /* a parent forgets what the rebuilding of its children has told it */
	PLAN_TIMERS,	  /* timers and pending signals */
	PLAN_RESTART,	  /* a thread goes back into the timed wait it was in */
	PLAN_REGISTERS,	  /* rseq, controls, limits, executor gone, all registers, signal masks */
};

struct plan_step {
	enum plan_kind kind;
	size_t process; /* member of the lineage: an index into model->processes, or a helper */
	size_t object;	/* index of the tree, the file, the open file, the entry, the terminal
			 * or (PLAN_RESTART) the thread */
};

struct plan {
	struct plan_step *steps;
	size_t n_steps, room;
	struct inheritance inheritance;
	struct lineage lineage;
};

/* A trial (leave_files) touches nothing outside the capsule: no file is put back (mapped ones become temporary
 * copies) and no descriptor opened, since what they refer to may be a running job's.
 * ERR_CORRUPT: the model contradicts itself. ERR_UNSUPPORTED: names the object. */
int plan_make(struct plan *ret, const Snap__Snapshot *model, bool leave_files, struct err *err);
void plan_clear(struct plan *plan);
/* The first half of plan_make. */
int plan_check(const Snap__Snapshot *model, struct err *err);
/* Of plan_check, for one process whose regions are known to be ascending: filters, controls, guards. */
int plan_check_controls(const Snap__Process *p, struct err *err);
/* Its part about IPC objects, once files, processes' regions and open files have been looked at. */
int plan_check_ipc(const Snap__Snapshot *model, struct err *err);
/* Its part about an open file that is a socket. */
int plan_check_socket(const Snap__Snapshot *model, size_t index, struct err *err);
/* Whether this machine can run it: architecture, page size, CPU features. */
int plan_check_machine(const Snap__Snapshot *model, struct err *err);

/* One line without number and newline; returns buf. */
const char *plan_step_text(const struct plan *plan, const struct plan_step *step,
			   const Snap__Snapshot *model, char *buf, size_t len);
void plan_print(const struct plan *plan, const Snap__Snapshot *model, FILE *out);

/* Whether the region's file is put back by path (PLAN_MAP_FILES) rather than made beforehand. */
bool plan_region_is_late(const Snap__Snapshot *model, const Snap__Region *region, bool leave_files);
/* Whether the process has an address space that no earlier one has. */
bool plan_owns_memory(const Snap__Process *p);
/* Whether the region's own pages are in the process's page table. */
bool plan_region_has_pages(const Snap__Region *region);

#endif
