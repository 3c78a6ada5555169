#include "watchdog/trial.h"

#include <inttypes.h>
#include <stdio.h>

#include "watchdog/capsule.h"

struct trial {
	const char *job;
	uint64_t seq;
	verify_report *report;
	void *ctx;
	uint64_t problems;
};

static void say_differs(void *ctx, pid_t pid, uint64_t address, uint64_t pages)
{
	struct trial *t = ctx;
	char line[160];

	snprintf(line, sizeof(line),
		 "rebuilt, %" PRIu64 " pages of process %d from %#" PRIx64 " differ from the snapshot", pages,
		 pid, address);
	t->problems++;
	t->report(t->ctx, t->job, t->seq, line);
}

static void say_failed(struct trial *t, const struct err *why)
{
	char line[sizeof(why->msg) + 32];

	snprintf(line, sizeof(line), "it cannot be rebuilt: %s", why->msg);
	t->problems++;
	t->report(t->ctx, t->job, t->seq, line);
}

static int make_capsule(struct capsule **ret, const Snap__Snapshot *model, struct err *err)
{
	const struct capsule_config config = {
		.plain_root = true,
		.set_clocks = true,
		.monotonic = model->clocks->monotonic,
		.boottime = model->clocks->boottime,
		.terminal = -1,
		.stream = {-1, -1, -1},
	};

	if (capsule_create(ret, &config, err) < 0)
		return -1;
	if (!(*ret)->plain)
		return 0;
	capsule_destroy(*ret);
	return err_set(err, ERR_UNSUPPORTED,
		       "a trial needs a capsule of its own, which this machine forbids (see pawl doctor)");
}

/* In a capsule of the trial's own. 0, or -1: err says why it cannot be rebuilt. */
static int rebuild_and_compare(struct trial *t, struct store *store, const Snap__Snapshot *model,
			       struct capsule *capsule, struct trial_result *ret, struct err *err)
{
	const struct recovery_options options = {.leave_files = true,
						  .differs = say_differs,
						  .ctx = t,
						  .job = t->job,
						  .seq = t->seq};
	const struct recovery_host host = capsule_recovery_host(capsule);
	struct recovery_result built;
	struct recovery *recovery;

	if (recovery_check(model, store, &options, err) < 0 ||
	    recovery_rebuild(&recovery, store, model, &host, &options, &built, err) < 0)
		return -1;
	ret->pages = built.compared;
	recovery_free(recovery);
	return 0;
}

static int run(struct trial *t, struct store *store, const Snap__Snapshot *model, struct trial_result *ret,
	       struct err *err)
{
	struct capsule *capsule;

	if (!model->capsule || !model->clocks)
		return err_set(err, ERR_CORRUPT, "it lacks the capsule or the clocks");
	if (make_capsule(&capsule, model, err) < 0)
		return -1;
	ret->processes = (uint32_t)model->n_processes;
	if (rebuild_and_compare(t, store, model, capsule, ret, err) < 0)
		say_failed(t, err);
	capsule_destroy(capsule);
	return 0;
}

int trial_run(struct store *store, const char *job, uint64_t seq, verify_report *report, void *ctx,
	      uint64_t *ret_problems, struct trial_result *ret, struct err *err)
{
	struct trial t = {.job = job, .report = report, .ctx = ctx};
	struct trial_result done = {0};
	struct snapshot_info info;
	Snap__Snapshot *model;
	int result;

	if (store_snapshot_load(store, job, seq, &info, &model, err) < 0)
		return -1;
	t.seq = done.seq = info.seq;
	result = run(&t, store, model, &done, err);
	snap__snapshot__free_unpacked(model, NULL);
	if (result < 0)
		return err_wrap(err, "trial of %s@%" PRIu64, job, info.seq);
	*ret_problems = t.problems;
	*ret = done;
	return 0;
}
