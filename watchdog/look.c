/* What the job has that no snapshot can hold, told as soon as it is seen (checkpointer/lookout.h). */
#include <string.h>
#include <time.h>

#include "checkpointer/lookout.h"
#include "store/base/io.h"
#include "store/base/log.h"
#include "store/base/units.h"
#include "watchdog/supervise.h"

/* Once a second, and never more than this part of one processor. */
#define LOOK_EVERY_NS NSEC_PER_SEC
#define LOOK_SHARE    200

static bool is_running(const struct watchdog *w)
{
	return w->capsule && !w->capsule->gone && !w->suspended &&
	       (w->state == WD_RUNNING || w->state == WD_UNSTOPPABLE);
}

uint64_t wd_next_look(const struct watchdog *w)
{
	return is_running(w) ? w->next_look : UINT64_MAX;
}

void wd_look(struct watchdog *w, uint64_t now)
{
	struct tree_root root;
	uint64_t cost;
	struct err err;
	int found;

	if (now < wd_next_look(w))
		return;
	root = capsule_root(w->capsule);
	found = lookout(&root, &err);
	cost = clock_ns(CLOCK_MONOTONIC) - now;
	w->next_look = now + (cost * LOOK_SHARE > LOOK_EVERY_NS ? cost * LOOK_SHARE : LOOK_EVERY_NS);
	if (found == 0) {
		w->last_look[0] = '\0';
		return;
	}
	if (strcmp(w->last_look, err.msg) == 0)
		return;
	memcpy(w->last_look, err.msg, sizeof(w->last_look));
	progress_clear(&w->progress);
	log_warn("job %s cannot be saved from now on: %s", w->job.name, err.msg);
	if (!w->config->unsupported_fails)
		return;
	wd_fail(w, &err);
	wd_handle(w, WE_REFUSED);
}
