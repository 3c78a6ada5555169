#include <stdlib.h>
#include <string.h>

#include "store/replicas.h"
#include "tools/cmd_replicas.h"
#include "tools/commands.h"
#include "tools/jobref.h"

static const struct cli_option options[] = {
	CLI_OPTION_JSON, CLI_OPTION_STORE, CLI_OPTION_ANY_FS, CLI_OPTION_HELP, CLI_OPTION_END,
};

static const struct cli_spec spec = {
	.name = "push",
	.operands = "JOB[@N] DEST",
	.about = "Copy snapshot N of JOB, or its latest, to DEST: dir:/PATH or "
		 "ssh://[USER@]HOST[/STORE].\n"
		 "Only what is not there yet is sent. Fails where the job was resumed from there by "
		 "somebody\n"
		 "else since.",
	.options = options,
	.least = 2,
	.most = 2,
};

/* A new one. That we are about to take it is noted first: we may die, or the connection, before the answer. */
static int take(struct store *store, struct destination *d, const struct job_info *job,
		const struct replica_job *seen, struct replica_hold *ret, struct err *err)
{
	uint8_t token[REPLICA_TOKEN];

	if (replica_token_make(token, err) < 0 ||
	    store_replica_taking(store, job->name, destination_text(d), token, err) < 0)
		return -1;
	return destination_take_as(d, job, seen, token, ret, err);
}

static bool owns(const struct replica_state *states, size_t n, const char *destination, const uint8_t *token)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(states[i].destination, destination) == 0)
			return replica_state_owns(&states[i], token);
	return false;
}

/* The hold that this store has; where nobody has one, a new one. */
static int get_hold(struct store *store, struct destination *d, const struct job_info *job,
		    struct replica_hold *ret, struct err *err)
{
	static const uint8_t nobody[REPLICA_TOKEN];
	struct replica_state *states;
	struct replica_job seen;
	bool there = destination_look(d, job->name, &seen, err) == 0;
	size_t n;
	int rc;

	if (!there)
		return err->kind == ERR_NOT_FOUND ? take(store, d, job, NULL, ret, err) : -1;
	rc = store_replicas_get(store, job->name, &states, &n, err);
	if (rc == 0) {
		*ret = (struct replica_hold){0};
		memcpy(ret->job, job->name, sizeof(ret->job));
		memcpy(ret->token, seen.token, REPLICA_TOKEN);
		if (memcmp(seen.token, nobody, REPLICA_TOKEN) == 0)
			rc = take(store, d, job, &seen, ret, err);
		else if (!owns(states, n, destination_text(d), seen.token))
			rc = err_set(err, ERR_FENCED,
				     "%s: job '%s' is held by %s there ('pawl pull' fetches it)",
				     destination_text(d), job->name, seen.holder);
		replica_states_free(states, n);
	}
	replica_job_clear(&seen);
	return rc;
}

static int push(const struct cli_args *args, struct err *err)
{
	cleanup_store struct store *store = NULL;
	cleanup_destination struct destination *d = NULL;
	struct replica_stats stats;
	struct replica_hold hold;
	struct job_info job;
	struct jobref ref;
	int rc;

	if (jobref_parse(args->operands[0], &ref, err) < 0 ||
	    destination_open(&d, args->operands[1], err) < 0 ||
	    cli_open_store(args, STORE_WRITE, &store, err) < 0 ||
	    cli_get_job(store, ref.job, &job, err) < 0)
		return -1;
	rc = get_hold(store, d, &job, &hold, err);
	job_info_clear(&job);
	if (rc < 0 ||
	    destination_push(d, &hold, store, ref.seq, &transfer_watch, &stats, err) < 0 ||
	    note_replica(store, d, ref.job, &hold, err) < 0)
		return -1;
	print_transfer("is at", ref.job, d, &stats, args->json);
	return 0;
}

int cmd_push(int argc, char **argv)
{
	struct err err = {0};
	struct cli_args args;
	int status;

	if (!cli_begin(&spec, argc, argv, NULL, &args, &status))
		return status;
	return push(&args, &err) < 0 ? cli_fail(&err) : cli_finish();
}
