/*
 * interval.h: how often to save a job whose user has left that to us (`--interval auto`). Pure.
 *
 * The more often, the less is lost to a failure, and the more to snapshots. With a cost of C
 *seconds of the job's time for each and a mean time between failures of M, the sum is least with
 *
 *	sqrt(2CM) * (1 + sqrt(C/2M)/3 + (C/2M)/9) - C		(M where C >= 2M)
 *
 * from the end of one to the beginning of the next (J. W. Young, Comm. ACM 17(9), 1974; J. T. Daly,
 * Future Generation Computer Systems 22(3), 2006).
 */
#ifndef PAWL_WATCHDOG_INTERVAL_H
#define PAWL_WATCHDOG_INTERVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INTERVAL_MTBF_NS    (24 * 3600 * 1000000000ull)
#define INTERVAL_FLOOR_NS   (10 * 1000000000ull)
#define INTERVAL_CEILING_NS (3600 * 1000000000ull)

struct interval_rule {
	bool automatic;
	uint64_t fixed_ns;	       /* where not automatic; 0: never */
	uint64_t mtbf_ns;	       /* of what may fail under the job: greater than 0 */
	uint64_t floor_ns, ceiling_ns; /* of what is chosen; floor <= ceiling */
};

/* What snapshots have cost the job, as a running mean that forgets. Zeroed at the start. */
struct interval_cost {
	unsigned n;
	double pause_s, cpu_s; /* per snapshot */
	double lost_s;	       /* of the job's time: see interval_note */
};

enum interval_reason {
	INTERVAL_FIXED,	  /* as the user has said */
	INTERVAL_BEST,	  /* by the formula */
	INTERVAL_FLOOR,	  /* the formula gives less */
	INTERVAL_CEILING, /* the formula gives more */
};

struct interval_choice {
	uint64_t interval_ns; /* 0: never */
	enum interval_reason reason;
	bool measured; /* the cost is: else it is a guess, until the first snapshot */
	double cost_s, mtbf_s;
};

/* A snapshot has stopped the job for pause_ns and taken cpu_ns of CPU time on a machine with so
 * many cores. It cost the job at most the pause and, where it keeps all cores busy, its part of the
 * rest. The first is a full one; it counts only until there is another. */
void interval_note(struct interval_cost *cost, uint64_t pause_ns, uint64_t cpu_ns, unsigned cores);

struct interval_choice interval_choose(const struct interval_rule *rule,
				       const struct interval_cost *cost);

/* "fixed", "best", "floor", "ceiling". */
const char *interval_reason_name(enum interval_reason reason);
/* The choice with its reason in one sentence without a full stop: "42 s, the best for ..." */
const char *interval_text(const struct interval_choice *choice, char *buf, size_t len);

#endif
