#include "watchdog/interval.h"

#include <math.h>
#include <stdio.h>

#include "store/base/units.h"

/* A new measurement counts for so much of the mean: what a job does changes with its phases. */
#define WEIGHT 0.3
/* Seconds, until there is a measurement. */
#define GUESS 1.0
/* Nothing costs nothing; below this, the formula would ask for the floor whatever the rest. */
#define LEAST_COST 0.001

static double mean(double old, double now, unsigned n)
{
	/* The first is a full snapshot, the second the first of its kind. */
	return n < 2 ? now : old + WEIGHT * (now - old);
}

void interval_note(struct interval_cost *cost, uint64_t pause_ns, uint64_t cpu_ns, unsigned cores)
{
	double pause = (double)pause_ns / 1e9, cpu = (double)cpu_ns / 1e9;

	cost->pause_s = mean(cost->pause_s, pause, cost->n);
	cost->cpu_s = mean(cost->cpu_s, cpu, cost->n);
	cost->lost_s = cost->pause_s + cost->cpu_s / (cores ? cores : 1);
	cost->n++;
}

/* Seconds. */
static double daly(double cost, double mtbf)
{
	double part = cost / (2 * mtbf);

	if (part >= 1)
		return mtbf;
	return sqrt(2 * cost * mtbf) * (1 + sqrt(part) / 3 + part / 9) - cost;
}

struct interval_choice interval_choose(const struct interval_rule *rule,
				       const struct interval_cost *cost)
{
	struct interval_choice choice = {
		.interval_ns = rule->fixed_ns,
		.reason = INTERVAL_FIXED,
		.measured = cost->n > 0,
		.cost_s = cost->n ? cost->lost_s : GUESS,
		.mtbf_s = (double)rule->mtbf_ns / 1e9,
	};
	double best;

	if (!rule->automatic)
		return choice;
	best = daly(choice.cost_s < LEAST_COST ? LEAST_COST : choice.cost_s, choice.mtbf_s) * 1e9;
	choice.reason = INTERVAL_BEST;
	if (best < (double)rule->floor_ns) {
		choice.reason = INTERVAL_FLOOR;
		best = (double)rule->floor_ns;
	} else if (best > (double)rule->ceiling_ns) {
		choice.reason = INTERVAL_CEILING;
		best = (double)rule->ceiling_ns;
	}
	choice.interval_ns = (uint64_t)best;
	return choice;
}

const char *interval_reason_name(enum interval_reason reason)
{
	switch (reason) {
	case INTERVAL_FIXED:
		return "fixed";
	case INTERVAL_BEST:
		return "best";
	case INTERVAL_FLOOR:
		return "floor";
	case INTERVAL_CEILING:
		return "ceiling";
	}
	return "unknown";
}

const char *interval_text(const struct interval_choice *choice, char *buf, size_t len)
{
	static const char *const why[] = {
		[INTERVAL_BEST] = "the best",
		[INTERVAL_FLOOR] = "the least allowed; less would be best",
		[INTERVAL_CEILING] = "the most allowed; more would be best",
	};
	char every[32], cost[32], mtbf[32];

	format_duration(choice->interval_ns, every, sizeof(every));
	if (choice->reason == INTERVAL_FIXED) {
		if (choice->interval_ns)
			snprintf(buf, len, "%s", every);
		else
			snprintf(buf, len, "never, only on request");
		return buf;
	}
	format_duration((uint64_t)(choice->cost_s * 1e9), cost, sizeof(cost));
	format_duration((uint64_t)(choice->mtbf_s * 1e9), mtbf, sizeof(mtbf));
	snprintf(buf, len,
		 "%s: %s where a snapshot costs the job %s (%s) and failures are %s apart", every,
		 why[choice->reason], cost, choice->measured ? "measured" : "assumed so far", mtbf);
	return buf;
}
