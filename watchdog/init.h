/*
 * init.h: pid 1 of a capsule, and how the watchdog talks to it. Private to capsule.c and init.c.
 *
 * Two SOCK_SEQPACKET pairs. On `requests` every message of the watchdog is answered by exactly one;
 * its end of file (the watchdog is gone) ends init and with it the capsule. On `events` init
 * reports what happens to the job's leader. Init is a fork of the watchdog that never executes
 * another program: it allocates nothing, takes no lock, and touches no descriptor but those named
 * in its plan.
 */
#ifndef PAWL_WATCHDOG_INIT_H
#define PAWL_WATCHDOG_INIT_H

#include <stdbool.h>
#include <stdint.h>

#include "watchdog/capsule.h"

enum init_op {
	INIT_LAUNCH,	 /* start the command: reply.pid and a pidfd */
	INIT_SPAWN,	 /* a stub with pid arg: reply.pid and a pidfd */
	INIT_WATCH,	 /* pid arg is the job's leader */
	INIT_FOREGROUND, /* process group arg is the terminal's foreground group */
	INIT_CLOCKS,	 /* its later children's clocks go on from there */
	INIT_CLOSE,	 /* close the streams and inherited descriptors: the job has its own now */
};

struct init_request {
	int32_t op, arg;
	uint64_t monotonic, boottime;
};

/* What init was doing when it failed. */
enum init_stage {
	STAGE_NONE,
	STAGE_MAPS,	/* uid_map, gid_map, setgroups */
	STAGE_SESSION,	/* setsid, controlling terminal */
	STAGE_MOUNTS,	/* propagation */
	STAGE_PROC,	/* mounting /proc */
	STAGE_SHM,	/* mounting /dev/shm */
	STAGE_TIME,	/* unshare(CLONE_NEWTIME), timens_offsets */
	STAGE_REQUESTS, /* descriptors, signals */
	STAGE_FORK,
	STAGE_EXEC,    /* the command could not be executed */
	STAGE_REQUEST, /* the request itself */
};

struct init_reply {
	int32_t error; /* errno, 0: done */
	int32_t stage;
	int32_t pid; /* in the capsule */
};

struct init_event {
	int32_t kind; /* enum capsule_event_kind */
	int32_t status;
	int32_t left_behind;
};

/* What init finds in the memory it has inherited. */
struct init_plan {
	const struct capsule_config *config;
	bool user_namespace;
	bool plain; /* no namespaces at all: see struct capsule */
	uint32_t uid, gid;    /* effective ones, in the watchdog's namespace */
	int requests, events; /* init's ends */
	int stub_socket;      /* the stubs' end, at the number that they have it */
	const int *keep;      /* ascending: every descriptor that init may hold */
	size_t n_keep;
};

/* Sets everything up, sends one init_reply (ready, or what failed), serves until the end. */
_Noreturn void init_main(const struct init_plan *plan);

/* Clones a child of init; the pidfd of it is CLOEXEC. vpid 0: any. As fork: 0 in the child. */
pid_t init_clone(pid_t vpid, int *ret_pidfd);

/* A stub, between its fork and its exec (stub.c). report_fd, CLOEXEC, closes when it is ready. */
_Noreturn void stub_main(int socket, int report_fd);

/* Mounts, clocks, identity (init_setup.c). 0, or the errno; *ret_stage says where. */
int init_setup(const struct init_plan *plan, enum init_stage *ret_stage);

/* 0 or the errno (init_setup.c). */
int init_set_clocks(uint64_t monotonic, uint64_t boottime);

/* The job's leader, between its fork and its exec (launch.c). Writes errno to report_fd on failure.
 */
_Noreturn void launch_exec(const struct init_plan *plan, int report_fd);

#endif
