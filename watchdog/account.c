#include <stdlib.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/parallel.h"
#include "watchdog/supervise.h"

static void choose_interval(struct watchdog *w)
{
	const struct watchdog_config *c = w->config;
	const struct interval_rule rule = {
		.automatic = c->interval_auto,
		.fixed_ns = c->interval_ns,
		.mtbf_ns = c->mtbf_ns ? c->mtbf_ns : INTERVAL_MTBF_NS,
		.floor_ns = c->least_interval_ns ? c->least_interval_ns : INTERVAL_FLOOR_NS,
		.ceiling_ns = c->most_interval_ns ? c->most_interval_ns : INTERVAL_CEILING_NS,
	};

	w->interval = interval_choose(&rule, &w->cost);
	w->metrics.interval = w->interval;
	w->metrics_due = 0;
}

void wd_account_begin(struct watchdog *w)
{
	w->metrics.job = w->job.name;
	w->metrics.store = store_dir(w->store);
	choose_interval(w);
}

void wd_account(struct watchdog *w, const struct snap_result *result)
{
	char text[256];

	if (result->ok) {
		interval_note(&w->cost, result->info.pause_us * 1000, result->cpu_ns, (unsigned)parallel_cpus());
		metrics_taken(&w->metrics, &result->info, result->cpu_ns);
	} else {
		w->metrics.failures++;
	}
	choose_interval(w);
	if (w->config->interval_auto)
		log_debug("interval: %s", interval_text(&w->interval, text, sizeof(text)));
}

void wd_account_restart(struct watchdog *w, const struct snapshot_info *from)
{
	w->metrics.restarts++;
	w->metrics.last = *from;
	w->metrics.has_last = true;
	w->metrics_due = 0;
}

void wd_schedule(struct watchdog *w, uint64_t started, uint64_t finished)
{
	w->due = policy_next_due(started, finished, w->interval.interval_ns);
}

/* ---- metrics ------------------------------------------------------------------------------- */

static int write_metrics(struct watchdog *w, struct err *err)
{
	cleanup_free char *text = NULL;

	w->metrics.generation = w->job.generation;
	if (metrics_text(&w->metrics, clock_ns(CLOCK_REALTIME), &text, err) < 0)
		return -1;
	return metrics_write(w->config->metrics, text, err);
}

/* A job is not given up for its metrics; that they are missing is said once. */
static void try_to_write(struct watchdog *w)
{
	struct err err;

	if (write_metrics(w, &err) == 0) {
		w->metrics_failed = false;
	} else if (!w->metrics_failed) {
		w->metrics_failed = true;
		progress_clear(&w->progress);
		log_warn("job %s: %s", w->job.name, err.msg);
	}
}

void wd_write_metrics(struct watchdog *w, uint64_t now)
{
	if (!w->config->metrics || now < w->metrics_due)
		return;
	w->metrics_due = now + METRICS_EVERY_NS;
	w->metrics.running = w->state != WD_OVER;
	try_to_write(w);
}

void wd_account_end(struct watchdog *w, int exit_status)
{
	if (!w->config->metrics)
		return;
	w->metrics.running = w->left_alone;
	w->metrics.has_exit = true;
	w->metrics.exit_status = exit_status;
	try_to_write(w);
}
