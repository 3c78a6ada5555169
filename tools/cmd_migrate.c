#include "tools/commands.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/units.h"
#include "store/replica/ssh_connect.h"
#include "store/wire/wire.h"
#include "tools/cli.h"
#include "tools/jobref.h"
#include "tools/report.h"
#include "watchdog/policy.h"
#include "watchdog/watchdog.h"

#define ROUNDS_MOST 6u

struct migration {
	struct store *store;
	const char *job, *to;
	unsigned rounds;
	uint64_t bytes;       /* sent before the job stood still */
	uint64_t downtime_ns; /* from its last step here to the answer that it runs there */
};

static const struct cli_option options[] = {
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static const struct cli_spec spec = {
	.name = "migrate",
	.operands = "JOB ssh://[USER@]HOST[:PORT][/STORE]",
	.about = "Move the running JOB: snapshots travel while it runs, until little is left; then it "
		 "stands\n"
		 "still, the rest follows, and it goes on there under a watchdog of its own. It ends here "
		 "only\n"
		 "when it runs there; whatever fails on the way, it goes on here.",
	.options = options,
	.least = 2,
	.most = 2,
};

static int send_round(struct migration *m, struct ssh_connection *c, uint64_t *ret_pages,
		      struct err *err)
{
	const struct wire_send_options send = {.soon = true};
	struct snapshot_info info;
	struct wire_stats stats;

	if (control_snapshot_now(m->store, m->job, &info, err) < 0)
		return -1;
	if (wire_send_snapshot(&c->ch, WIRE_NEGOTIATED, m->store, m->job, info.seq, &send, &stats,
			       err) < 0)
		return -1;
	*ret_pages = stats.pages;
	m->rounds++;
	m->bytes += stats.bytes;
	return 0;
}

/* Until little is left, or it does not get less. The watchdog goes on from there. */
static int pre_copy(struct migration *m, struct ssh_connection *c, struct err *err)
{
	uint64_t last, pages = UINT64_MAX;

	do {
		last = pages;
		if (send_round(m, c, &pages, err) < 0)
			return -1;
	} while (m->rounds < ROUNDS_MOST && policy_another_round(last, pages));
	return 0;
}

static int migrate(struct migration *m, struct err *err)
{
	struct ssh_connection connection = {.fd = -1, .messages = -1};
	struct ssh_target target;
	struct snapshot_info info;
	int rc;

	if (strncmp(m->to, "ssh://", 6) != 0)
		return err_set(err, ERR_INVALID,
			       "'%s' is not ssh://[USER@]HOST[:PORT][/STORE]", m->to);
	if (ssh_target_parse(m->to + 6, &target, err) < 0)
		return -1;
	if (ssh_connect(&connection, &target, err) < 0)
		return err_wrap(err, "job %s goes on here: %s", m->job, m->to);
	rc = pre_copy(m, &connection, err);
	if (rc < 0)
		ssh_explain(&connection, err);
	else
		ssh_disconnect(&connection);
	if (rc < 0 || control_move(m->store, m->job, m->to, &info, err) < 0)
		return err_wrap(err, "job %s goes on here", m->job);
	m->downtime_ns = info.pause_us * 1000;
	return 0;
}

static void print_result(const struct migration *m)
{
	char downtime[32], sent[32];

	printf("job %s goes on at %s  stood still %s  sent before %s in %u round%s\n", m->job, m->to,
	       format_duration(m->downtime_ns, downtime, sizeof(downtime)),
	       format_size(m->bytes, sent, sizeof(sent)), m->rounds, m->rounds == 1 ? "" : "s");
}

static int migrate_job(const struct cli_args *args, struct migration *m, struct err *err)
{
	static struct jobref ref;
	struct job_info job;
	bool runs;

	if (jobref_parse_job(args->operands[0], &ref, err) < 0 ||
	    cli_get_job(m->store, ref.job, &job, err) < 0)
		return -1;
	runs = store_job_is_locked(m->store, &job);
	job_info_clear(&job);
	if (!runs)
		return err_set(err, ERR_NOT_FOUND, "job %s does not run ('pawl push' sends snapshots)",
			       ref.job);
	m->job = ref.job;
	m->to = args->operands[1];
	return migrate(m, err);
}

int cmd_migrate(int argc, char **argv)
{
	cleanup_store struct store *store = NULL;
	struct migration m = {0};
	struct err err = {0};
	struct cli_args args;
	int status;

	if (!cli_begin(&spec, argc, argv, NULL, &args, &status))
		return status;
	signal(SIGPIPE, SIG_IGN);
	if (cli_open_store(&args, STORE_READ, &store, &err) < 0)
		return cli_fail(&err);
	m.store = store;
	if (migrate_job(&args, &m, &err) < 0)
		return cli_fail(&err);
	if (args.json)
		report_print(json_pack("{sssssisIsf}", "job", m.job, "destination", m.to, "rounds",
				       (int)m.rounds, "bytes_before", (json_int_t)m.bytes,
				       "downtime", (double)m.downtime_ns / 1e9));
	else
		print_result(&m);
	return cli_finish();
}
