/*
 * doctor.h: what this machine can do, found out by trying it.
 */
#ifndef PAWL_TOOLS_DOCTOR_H
#define PAWL_TOOLS_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "store/base/err.h"

enum doctor_grade {
	DOCTOR_OK,
	DOCTOR_FALLBACK, /* works, but slower or less */
	DOCTOR_ABSENT,	 /* missing, and not needed while something better works */
	DOCTOR_MISSING,	 /* `pawl run` cannot work without */
};

struct doctor_line {
	const char *what; /* static */
	enum doctor_grade grade;
	char why[256];
};

struct doctor_report {
	struct doctor_line lines[32];
	size_t n;
};

void doctor_add(struct doctor_report *report, const char *what, enum doctor_grade grade,
		const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Namespaces, pids of one's choice, clocks: what a capsule needs. Tried in children of ours. */
void doctor_capsule(struct doctor_report *report);
/* Tracing, descriptors of other processes, memory trackers, CPU, kernel. */
void doctor_kernel(struct doctor_report *report);
/* The store's file system, and LMDB. store_dir need not exist. */
void doctor_store(struct doctor_report *report, const char *store_dir);

/* Lists what process pid and all below it hold, and prints it. ret_refused: some of it cannot be saved. */
int doctor_process(pid_t pid, bool json, bool *ret_refused, struct err *err);

/* First line of a small file such as a sysctl; NULL where there is none. buf is returned. */
const char *doctor_read_line(const char *path, char *buf, size_t len);

#endif
