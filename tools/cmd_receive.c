#include "tools/commands.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"
#include "store/wire/wire.h"
#include "tools/cli.h"
#include "tools/launch_options.h"
#include "tools/report.h"

enum { RECEIVE_NEGOTIATE = CLI_OWN };

struct receive_args {
	const char *name;
	bool negotiate;
};

static const struct cli_option options[] = {
	{'n', "name", "NAME", "the job's name here (default: as it was)"},
	{RECEIVE_NEGOTIATE, "negotiate", NULL,
	 "answer on standard output, so that only what is\nmissing here travels; what ssh destinations run"},
	CLI_OPTION_JSON,
	CLI_OPTION_STORE,
	CLI_OPTION_ANY_FS,
	CLI_OPTION_HELP,
	CLI_OPTION_END,
};

static int set(void *ctx, int key, const char *value, struct err *err)
{
	struct receive_args *args = ctx;

	if (key == 'n') {
		args->name = value;
		return job_name_check(value, err);
	}
	args->negotiate = true;
	return 0;
}

static const struct cli_spec spec = {
	.name = "receive",
	.operands = "[FILE]",
	.about = "Read a snapshot that 'pawl send' has written from FILE or standard input into the "
		 "store.\n"
		 "It appears whole or not at all; what arrived of a broken transfer is kept for a day, "
		 "and\n"
		 "a repeat with --negotiate sends only the rest. The job does not run by that: 'pawl "
		 "recover'.",
	.options = options,
	.least = 0,
	.most = 1,
	.set = set,
};

static int open_input(const struct cli_args *cli, int *ret, struct err *err)
{
	*ret = cli->n_operands ? open(cli->operands[0], O_RDONLY | O_CLOEXEC) : dup(STDIN_FILENO);
	if (*ret < 0)
		return err_sys(err, "%s", cli->n_operands ? cli->operands[0] : "standard input");
	if (isatty(*ret))
		return err_set(err, ERR_INVALID,
			       "a stream does not come from a terminal: redirect it, or name a file");
	return 0;
}

static int make_store(const struct cli_args *cli, struct store **ret, struct err *err)
{
	char dir[PATH_MAX];

	if (cli_store_dir(cli, dir, sizeof(dir), err) < 0 || launch_make_parent(dir, err) < 0)
		return -1;
	return store_open(ret, dir, STORE_CREATE | (cli->any_fs ? STORE_ANY_FS : 0), err);
}

static int receive_one(struct wire_channel *ch, struct store *store,
		       const struct receive_args *args, struct wire_stats *stats, struct err *err)
{
	const struct wire_receive_options receive = {.name = args->name, .codec = CODEC_LZ4};
	uint32_t flags;

	if (wire_accept(ch, &flags, err) < 0)
		return -1;
	if ((flags & WIRE_NEGOTIATED) && !args->negotiate)
		return err_set(err, ERR_INVALID,
			       "the sender waits for answers: receive with --negotiate");
	if ((flags & WIRE_NEGOTIATED) && wire_open(ch, 0, err) < 0)
		return -1;
	return wire_receive_snapshot(ch, flags, NULL, store, &receive, stats, err);
}

static int receive_job(const struct cli_args *cli, const struct receive_args *args,
		       struct wire_stats *stats, struct err *err)
{
	cleanup_store struct store *store = NULL;
	struct wire_channel ch;
	cleanup_fd int in = -1;
	int rc;

	if (open_input(cli, &in, err) < 0 || make_store(cli, &store, err) < 0)
		return -1;
	wire_channel_init(&ch, in, args->negotiate ? STDOUT_FILENO : -1);
	rc = receive_one(&ch, store, args, stats, err);
	wire_channel_clear(&ch);
	return rc;
}

static void print_stats(const struct wire_stats *stats, bool json)
{
	char size[32];

	if (json)
		report_print(json_pack("{sssIsIsIsb}", "job", stats->job, "number",
				       (json_int_t)stats->seq, "pages", (json_int_t)stats->pages,
				       "stream_bytes", (json_int_t)stats->bytes, "present",
				       (int)stats->present));
	else if (stats->present)
		printf("%s@%" PRIu64 " is here already\n", stats->job, stats->seq);
	else
		printf("%s@%" PRIu64 "  received %s\n", stats->job, stats->seq,
		       format_size(stats->bytes, size, sizeof(size)));
}

int cmd_receive(int argc, char **argv)
{
	struct receive_args args = {0};
	struct wire_stats stats = {0};
	struct err err = {0};
	struct cli_args cli;
	int status;

	if (!cli_begin(&spec, argc, argv, &args, &cli, &status))
		return status;
	signal(SIGPIPE, SIG_IGN);
	if (receive_job(&cli, &args, &stats, &err) < 0)
		return cli_fail(&err);
	if (args.negotiate)
		return EXIT_SUCCESS; /* standard output was the way back */
	print_stats(&stats, cli.json);
	return cli_finish();
}
