/*
 * capsule.h: the namespaces a job lives in, and the small init that is pid 1 there.
 *
 * A capsule has its own pid, mount, IPC and time namespaces and, unless the caller may do without,
 * its own user namespace that maps the caller's uid and gid onto themselves. It dies with the
 * thread that created it (PR_SET_PDEATHSIG) and with the last descriptor of its request socket.
 *
 * Threads: create and destroy on one thread; the requests (launch, spawn, watch, foreground) may
 * come from any, one at a time.
 */
#ifndef PAWL_WATCHDOG_CAPSULE_H
#define PAWL_WATCHDOG_CAPSULE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "checkpointer/tree_root.h"
#include "recovery/recovery.h"
#include "store/base/err.h"
#include "watchdog/caller.h"

struct capsule_config {
	bool plain_root; /* as root: do without a user namespace where that is allowed */
	bool set_clocks; /* a recovery: the capsule's clocks go on from these (nanoseconds) */
	uint64_t monotonic, boottime;
	int terminal; /* slave that becomes the controlling terminal, -1: none */
	/* For a launch (init takes a copy of it all at its creation). */
	char *const *argv;
	int last_pid; /* pids of the capsule follow on it, where the kernel lets us say so; 0: they begin at 2 */
	int stream[3]; /* the job's standard streams: i itself, a number above 2, -1: closed */
	const struct caller *caller;
};

struct capsule {
	struct tree_root root;
	pid_t init; /* 0: there is none, the job is attached (attached.h) */
	int init_fd; /* pidfd of init */
	int requests, events;
	int claim; /* attached: the lock that keeps other pawls off; -1 */
	bool user_namespace;
	/* No namespace can be had here: init is a subreaper that ends the job's processes by hand, nobody
	 * can choose pids, clocks are the machine's. */
	bool plain;
	bool gone;     /* CAPSULE_GONE has been told */
	int stub_host; /* our end of the socket that every stub has at stub_number */
	int stub_number;
	pthread_mutex_t lock;
};

/* Clones init and waits until it has set everything up. ERR_UNSUPPORTED or ERR_DENIED name what
 * this machine forbids. On failure nothing is left. */
int capsule_create(struct capsule **ret, const struct capsule_config *config, struct err *err);

/* Ends everything in the capsule; does not wait. Harmless when it is gone. An attached job is not
 * pawl's to end, here and in capsule_destroy. */
void capsule_kill(struct capsule *capsule);
/* Kills and waits until nothing of it is left. Nothing in it may be traced by a living thread that
 * does not wait for it. Takes NULL. */
void capsule_destroy(struct capsule *capsule);

/* Executes config->argv. *ret_pid: host pid of the leader, *ret_vpid: its pid in the capsule. Where
 * the command cannot be executed: -1, and *ret_exec_errno (0 otherwise) says why. */
int capsule_launch(struct capsule *capsule, pid_t *ret_pid, pid_t *ret_vpid, int *ret_exec_errno,
		   struct err *err);
/* A stub process with pid vpid: blocks all signals, waits, holds nothing but its socket. */
int capsule_spawn(struct capsule *capsule, pid_t vpid, pid_t *ret_pid, int *ret_pidfd,
		  struct err *err);
/* Makes vpid the leader whose end is reported. */
int capsule_watch(struct capsule *capsule, pid_t vpid, struct err *err);
/* Makes process group vpgrp the terminal's foreground group. */
int capsule_foreground(struct capsule *capsule, pid_t vpgrp, struct err *err);
/* As config->set_clocks, for processes that are yet to be created. Once. */
int capsule_set_clocks(struct capsule *capsule, uint64_t monotonic, uint64_t boottime, struct err *err);
/* Init lets go of the streams and inherited descriptors. */
int capsule_close_streams(struct capsule *capsule, struct err *err);

enum capsule_event_kind {
	CAPSULE_LEADER_EXITED,	/* status: as wait(2), where it is known */
	CAPSULE_LEADER_STOPPED, /* status: the signal */
	CAPSULE_LEADER_CONTINUED,
	CAPSULE_GONE, /* init is dead, and with it the job */
};

struct capsule_event {
	enum capsule_event_kind kind;
	int status;
	bool unknown;	  /* LEADER_EXITED: of an attached job, and the kernel does not tell how */
	bool left_behind; /* LEADER_EXITED: other processes of the job still run */
};

/* 1: an event, 0: none now. Poll capsule->events for POLLIN. After CAPSULE_GONE no more is to come.
 */
int capsule_next_event(struct capsule *capsule, struct capsule_event *ret);

/* What the checkpointer takes the job's processes from. */
struct tree_root capsule_root(const struct capsule *capsule);
/* Host pids of all processes of the capsule but init, as /proc shows them now. *ret malloc'ed. */
int capsule_pids(const struct capsule *capsule, pid_t **ret, size_t *ret_n, struct err *err);
/* CPU time of all of them, nanoseconds; what processes that have ended used is not in it. */
uint64_t capsule_cpu_ns(const struct capsule *capsule);
/* The capsule's number for a process group known by its host number; 0 where it has no member. */
pid_t capsule_translate_pgrp(const struct capsule *capsule, pid_t host_pgrp);

/* What recovery needs of it; streams and terminal are the caller's to fill in. */
struct recovery_host capsule_recovery_host(struct capsule *capsule);

#endif
