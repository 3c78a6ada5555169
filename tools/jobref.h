/*
 * jobref.h: JOB and JOB@N, as users name jobs and snapshots. Pure.
 */
#ifndef PAWL_TOOLS_JOBREF_H
#define PAWL_TOOLS_JOBREF_H

#include <stdint.h>

#include "store/base/err.h"

struct jobref {
	char job[128];
	uint64_t seq; /* 0: JOB alone, its latest good snapshot */
};

/* ERR_INVALID names what is wrong. N counts from 1, decimal, without sign or leading zero. */
int jobref_parse(const char *text, struct jobref *ret, struct err *err);
/* Where only a job makes sense: a JOB@N is ERR_INVALID. */
int jobref_parse_job(const char *text, struct jobref *ret, struct err *err);
/* Where only a snapshot makes sense: a JOB alone is ERR_INVALID. */
int jobref_parse_snapshot(const char *text, struct jobref *ret, struct err *err);

#endif
