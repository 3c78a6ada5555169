#include "tools/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"
#include "store/wire/serve.h"
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
	*ret = cli->n_operands ? open(cli->operands[0], O_RDONLY | O_CLOEXEC) : fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
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

/* ---- jobs that are to go on here ----------------------------------------------------------- */

/* A watchdog that waits for our word: to fill memory, to rebuild the job, to let it go on. */
struct offer {
	struct store *store;
	int fd;    /* to it; -1: there is none */
	pid_t pid; /* who started it; 0: nobody */
	char job[128];
};

/* Runs a pawl of our own kind; `theirs` is among its descriptors. Its standard error is ours, input and output are
 * nothing. */
static int spawn_pawl(char *const argv[], int theirs, pid_t *ret, struct err *err)
{
	posix_spawn_file_actions_t actions;
	char number[16];
	int rc;

	snprintf(number, sizeof(number), "%d", theirs);
	if (setenv(LAUNCH_CONFIRM_VARIABLE, number, 1) < 0)
		return err_sys(err, "cannot run pawl %s", argv[1]);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	rc = posix_spawn(ret, "/proc/self/exe", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return rc ? err_code(err, rc, "cannot run pawl %s", argv[1]) : 0;
}

/* Its watchdog says so, or ends. */
static int await_word(struct offer *offer, enum handover_word word, const char *what, struct err *err)
{
	char said = 0;
	ssize_t n;

	while ((n = recv(offer->fd, &said, 1, 0)) < 0 && errno == EINTR)
		;
	if (n == 1 && said == (char)word)
		return 0;
	return err_set(err, ERR_SYSTEM, "the job's new watchdog there ended before %s", what);
}

static void withdraw(void *ctx)
{
	struct offer *offer = ctx;

	if (offer->fd >= 0)
		close(offer->fd);
	offer->fd = -1;
	if (offer->pid > 0)
		waitpid(offer->pid, NULL, 0);
	offer->pid = 0;
}

static int start_waiting(struct offer *offer, char *const argv[], struct err *err)
{
	cleanup_fd int theirs = -1;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(err, "cannot start the job");
	offer->fd = pair[0];
	theirs = pair[1];
	if (fcntl(theirs, F_SETFD, 0) < 0)
		return err_sys(err, "cannot start the job");
	return spawn_pawl(argv, theirs, &offer->pid, err);
}

static int start_watchdog(struct offer *offer, const char *job, const uint8_t *token, struct err *err)
{
	char hex[33];
	char *argv[] = {(char *)"pawl", (char *)"recover", (char *)"-d", (char *)"-q",
			(char *)"--store", (char *)store_dir(offer->store), offer->job, NULL, NULL};

	withdraw(offer);
	snprintf(offer->job, sizeof(offer->job), "%s", job);
	/* The job stands still on the other machine meanwhile. Others than root would be told that they cannot. */
	if (geteuid() == 0)
		argv[7] = (char *)"--lazy";
	for (int i = 0; i < 16; i++)
		snprintf(hex + 2 * i, 3, "%02x", token[i]);
	if (setenv(LAUNCH_HOLD_VARIABLE, hex, 1) < 0)
		return err_sys(err, "cannot start the job");
	return start_waiting(offer, argv, err);
}

/* One order to the job's watchdog, which is started for the first. After a failure there is none. */
static int give_order(struct offer *offer, const char *job, const uint8_t *token, const struct handover_order *order,
		      enum handover_word answer, const char *what, struct err *err)
{
	int rc = 0;

	if (offer->fd < 0 || strcmp(offer->job, job) != 0)
		rc = start_watchdog(offer, job, token, err);
	if (rc == 0 && send(offer->fd, order, sizeof(*order), MSG_NOSIGNAL) != (ssize_t)sizeof(*order))
		rc = err_sys(err, "the job's new watchdog there has ended");
	if (rc == 0)
		rc = await_word(offer, answer, what, err);
	if (rc < 0)
		withdraw(offer);
	return rc;
}

static int fill_here(void *ctx, const char *job, uint64_t seq, const uint8_t *token, struct err *err)
{
	const struct handover_order fill = {.seq = seq, .kind = HANDOVER_AHEAD};

	return give_order(ctx, job, token, &fill, HANDOVER_FILLED, "it had put up memory", err);
}

static int start_here(void *ctx, const char *job, uint64_t seq, const uint8_t *token, struct err *err)
{
	const struct handover_order start = {.seq = seq, .kind = HANDOVER_START};

	return give_order(ctx, job, token, &start, HANDOVER_READY, "it had rebuilt the job", err);
}

static int let_go(void *ctx, struct err *err)
{
	static const char go = HANDOVER_GO;
	struct offer *offer = ctx;
	int rc = 0;

	if (send(offer->fd, &go, 1, MSG_NOSIGNAL) != 1)
		rc = err_sys(err, "the job's new watchdog there has ended");
	if (rc == 0)
		rc = await_word(offer, HANDOVER_DONE, "the job ran", err);
	withdraw(offer);
	return rc;
}

static int receive_one(struct wire_channel *ch, struct store *store,
		       const struct receive_args *args, const struct wire_starter *starter,
		       struct wire_stats *stats, struct err *err)
{
	const struct wire_receive_options receive = {.name = args->name, .codec = CODEC_LZ4};
	uint32_t flags;

	if (wire_accept(ch, &flags, err) < 0)
		return -1;
	if ((flags & WIRE_NEGOTIATED) && !args->negotiate)
		return err_set(err, ERR_INVALID,
			       "the sender waits for answers: receive with --negotiate");
	if (flags & WIRE_NEGOTIATED)
		return wire_open(ch, 0, err) < 0 ? -1
						 : wire_serve(ch, flags, store, &receive, starter, err);
	return wire_receive_snapshot(ch, flags, NULL, store, &receive, stats, err);
}

static int receive_job(const struct cli_args *cli, const struct receive_args *args,
		       struct wire_stats *stats, struct err *err)
{
	cleanup_store struct store *store = NULL;
	struct offer offer = {.fd = -1};
	const struct wire_starter starter = {
		.ahead = fill_here, .start = start_here, .confirm = let_go, .stop = withdraw, .ctx = &offer};
	struct wire_channel ch;
	cleanup_fd int in = -1;
	int rc;

	if (open_input(cli, &in, err) < 0 || make_store(cli, &store, err) < 0)
		return -1;
	offer.store = store;
	wire_channel_init(&ch, in, args->negotiate ? STDOUT_FILENO : -1);
	rc = receive_one(&ch, store, args, &starter, stats, err);
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
