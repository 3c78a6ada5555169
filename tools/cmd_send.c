#include "tools/commands.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"
#include "store/wire/wire.h"
#include "tools/cli.h"
#include "tools/jobref.h"
#include "tools/report.h"

enum { SEND_BASE = CLI_OWN, SEND_NEGOTIATE };

struct send_args {
	uint64_t base;
	bool negotiate;
	const char *output;
};

static const struct cli_option options[] = {
	{SEND_BASE, "base", "N", "send only what JOB@N does not have; the receiver\nmust have that one"},
	{SEND_NEGOTIATE, "negotiate", NULL,
	 "standard input has the answers of a 'pawl receive\n--negotiate': send only what it lacks"},
	{'o', "output", "FILE", "write to FILE, which must not exist"},
	CLI_OPTION_STORE,
	CLI_OPTION_ANY_FS,
	CLI_OPTION_HELP,
	CLI_OPTION_END,
};

static int set(void *ctx, int key, const char *value, struct err *err)
{
	struct send_args *args = ctx;
	struct jobref ref;
	char text[64];

	if (key == SEND_NEGOTIATE)
		args->negotiate = true;
	if (key == 'o')
		args->output = value;
	if (key != SEND_BASE)
		return 0;
	snprintf(text, sizeof(text), "x@%.40s", value);
	if (jobref_parse_snapshot(text, &ref, err) < 0)
		return err_set(err, ERR_INVALID, "--base '%s': the number of a snapshot belongs here",
			       value);
	args->base = ref.seq;
	return 0;
}

static const struct cli_spec spec = {
	.name = "send",
	.operands = "JOB[@N]",
	.about = "Write a snapshot (the newest one) as a stream to standard output: for 'pawl "
		 "receive' on\n"
		 "another machine, or for a file. It carries the job's record, log and kept input too.",
	.options = options,
	.least = 1,
	.most = 1,
	.set = set,
};

static int open_output(const struct send_args *args, int *ret, struct err *err)
{
	if (args->output)
		*ret = open(args->output, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	else
		*ret = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	if (*ret < 0)
		return err_sys(err, "%s", args->output ? args->output : "standard output");
	if (isatty(*ret))
		return err_set(err, ERR_INVALID,
			       "a stream is not for a terminal to show: redirect it, or give --output");
	return 0;
}

static int exchange_headers(struct wire_channel *ch, const struct send_args *args, uint32_t *ret,
			    struct err *err)
{
	*ret = args->negotiate ? WIRE_NEGOTIATED : 0;
	if (wire_open(ch, *ret, err) < 0)
		return -1;
	return args->negotiate ? wire_accept(ch, &(uint32_t){0}, err) : 0;
}

static int send_job(const struct cli_args *cli, const struct send_args *args,
		    struct wire_stats *stats, struct err *err)
{
	const struct wire_send_options send = {.base = args->base};
	cleanup_store struct store *store = NULL;
	struct wire_channel ch;
	struct jobref ref;
	uint32_t flags;
	int out, rc;

	if (args->negotiate && (args->base || args->output))
		return err_set(err, ERR_INVALID,
			       "--negotiate finds the base by itself, and needs both ways");
	if (jobref_parse(cli->operands[0], &ref, err) < 0 ||
	    cli_open_store(cli, STORE_READ, &store, err) < 0)
		return -1;
	if (open_output(args, &out, err) < 0)
		return -1;
	wire_channel_init(&ch, args->negotiate ? STDIN_FILENO : -1, out);
	rc = exchange_headers(&ch, args, &flags, err);
	if (rc == 0)
		rc = wire_send_snapshot(&ch, flags, store, ref.job, ref.seq, &send, stats, err);
	if (rc == 0 && args->output && fsync(out) < 0)
		rc = err_sys(err, "%s", args->output);
	wire_channel_clear(&ch);
	close(out);
	if (rc < 0 && args->output)
		unlink(args->output);
	return rc;
}

static void print_stats(const struct wire_stats *stats)
{
	char size[32];

	if (stats->present)
		fprintf(stderr, "pawl: %s is there already, as %s@%" PRIu64 "\n", stats->job,
			stats->job, stats->seq);
	else
		fprintf(stderr, "pawl: sent %s@%" PRIu64 ": %" PRIu64 " pages, %s\n", stats->job,
			stats->seq, stats->pages, format_size(stats->bytes, size, sizeof(size)));
}

int cmd_send(int argc, char **argv)
{
	struct wire_stats stats = {0};
	struct send_args args = {0};
	struct err err = {0};
	struct cli_args cli;
	int status;

	if (!cli_begin(&spec, argc, argv, &args, &cli, &status))
		return status;
	signal(SIGPIPE, SIG_IGN); /* a receiver that has gone is an error like others */
	if (send_job(&cli, &args, &stats, &err) < 0)
		return cli_fail(&err);
	if (isatty(STDERR_FILENO))
		print_stats(&stats);
	return EXIT_SUCCESS;
}
